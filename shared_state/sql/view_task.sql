-- One task with its steps counted by state.
select t.*, coalesce(c.counts, '{}') as step_counts,
    u.model_calls, u.input_tokens, u.output_tokens,
    case when f.task_id is not null then jsonb_build_object('task_id', f.from_task_id, 'step', f.from_step_key,
        'actor', f.actor, 'edited', f.edited) end as forked_from
from tasks t
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
where t.id = %(id)s and t.tenant_id = %(tenant)s;
