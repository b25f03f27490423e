-- Take ready (or unclaimed reviewing) steps: only at the epoch the message names, only if nobody moved on since.
-- The attempt is recorded before anything runs, so that a step that kills its worker still counts its attempts.
-- What a rule may hold back (a pause, a limit) is not taken unless it was judged before; a row says that there was such.
with wanted as (
    select * from unnest(%(ids)s::uuid[], %(epochs)s::bigint[]) as w (id, epoch) order by id
), locked as (
    select w.*, case
        when %(judged)s::bool then false
        -- Where nobody has paused or limited anything: one look at an empty index, not one for each step.
        when not exists (select from rules where tenant_id > '' and ended_at is null) then false
        else coalesce((
            select true
            from rules r
            where r.tenant_id = s.tenant_id and r.ended_at is null
                and (r.task_id = s.task_id
                    or r.team_name = (select t.team_name from tasks t where t.id = s.task_id)
                    and (r.agent is null
                        or r.agent = case s.state when 'reviewing' then s.reviewer else s.agent end))
            limit 1), false) end as ruled
    from wanted w
    cross join lateral (
        select s.state, s.lease_until, s.tenant_id, s.task_id, s.agent, s.reviewer
        from steps s
        where s.id = w.id
            and s.epoch = w.epoch -- guard: epoch
        offset 0
        for update -- guard: row lock
    ) s
    where (s.state = 'ready' or s.state = 'reviewing' and s.lease_until is null) -- guard: claimable
), claimed as (
    update steps s
    set state = case s.state when 'ready' then 'running' else 'reviewing' end,
        attempt_count = s.attempt_count + 1,
        worker = %(worker)s,
        lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
    from locked l
    where s.id = l.id
        and not l.ruled -- guard: not ruled
    returning s.*
), dequeued as (
    delete from outbox where step_id = any (array(select id from claimed))
), begun as (
    insert into attempts (step_id, epoch, tenant_id, task_id, role, agent, attempt, worker, state)
    select id, epoch, tenant_id, task_id,
        case state when 'reviewing' then 'reviewer' else role end,
        case state when 'reviewing' then reviewer else agent end,
        attempt_count, worker, 'running'
    from claimed
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch,
        case state when 'reviewing' then 'step.review_started' else 'step.started' end,
        jsonb_build_object('step', key, 'attempt', attempt_count, 'worker', worker)
    from claimed
)
select c.id as step_id, c.epoch, c.tenant_id, c.task_id, c.key, c.attempt_count, c.rejection_count, c.question_count,
    case c.state when 'reviewing' then 'reviewer' else c.role end as role,
    case c.state when 'reviewing' then c.reviewer else c.agent end as agent,
    case c.state when 'reviewing' then null else c.reviewer end as reviewer,
    c.input, c.feedback, c.has_dependents, r.any as ruled,
    t.team_digest, t.goal, t.traceparent, t.deadline_at as task_deadline_at,
    coalesce(extract(epoch from clock_timestamp() - c.ready_at), 0)::float8 as waited_seconds,
    case c.state when 'reviewing' then
        (select p.body from proposals p where p.step_id = c.id and p.state = 'pending') end as proposal,
    (select jsonb_object_agg(n.key, o.body)
        from dependencies d
        join steps n on n.id = d.needs_id
        join outputs o on o.step_id = d.needs_id and o.epoch = d.input_epoch
        where d.step_id = c.id) as inputs,
    case when c.epoch > 1 then
        (select jsonb_agg(jsonb_build_object('question', q.text, 'answer', q.answer) order by q.answered_at)
        from questions q where q.step_id = c.id and q.state = 'answered') end as answers
from (select exists (select from locked l where l.ruled) as any) r
left join (claimed c join tasks t on t.id = c.task_id) on true
where c.id is not null or r.any
order by c.id;
