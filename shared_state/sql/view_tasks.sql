-- A page of tasks, newest first. The page is cut before steps are counted, and leaves inputs, which may be large, alone.
with page as (
    select * from tasks
    where tenant_id = %(tenant)s
        and (%(before)s::uuid is null or id < %(before)s)
        and (%(states)s::text[] is null or state = any (%(states)s))
        and (%(team)s::text is null or team_name = %(team)s)
        and (%(label)s::text is null or labels ->> %(label)s = %(value)s)
    order by id desc
    limit %(limit)s
)
select t.id, t.team_name, t.team_digest, t.state, t.degraded, t.goal, t.labels, t.step_count, t.error, t.created_at,
    t.deadline_at, t.cancel_requested_at, t.finished_at, coalesce(c.counts, '{}') as step_counts,
    u.model_calls, u.input_tokens, u.output_tokens,
    case when f.task_id is not null then jsonb_build_object('task_id', f.from_task_id, 'step', f.from_step_key,
        'actor', f.actor, 'edited', f.edited) end as forked_from
from page t
left join forks f on f.task_id = t.id
left join lateral (
    select jsonb_object_agg(state, n) as counts
    from (select state, count(*) as n from steps where task_id = t.id group by state) s
) c on true
left join lateral (
    select count(*) as model_calls, coalesce(sum(input_tokens), 0)::bigint as input_tokens,
        coalesce(sum(output_tokens), 0)::bigint as output_tokens
    from model_calls where task_id = t.id
) u on true
order by t.id desc;
