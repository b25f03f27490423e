-- A task made from another: the given steps are copied, those that are shared with their accepted outputs and the
-- attempts that made them, the others to run anew. Bodies stay here; who calls this says which steps, and which ids.
-- Answers the queue entries of the steps that are ready: at least one, unless the origin was pruned meanwhile.
with origin as (
    select * from tasks where id = %(origin)s::uuid
), given as (
    select *
    from jsonb_to_recordset(%(steps)s::jsonb) as g (
        id uuid, from_id uuid, shared boolean, needs_left int, input jsonb)
), made_task as (
    insert into tasks (id, tenant_id, team_name, team_digest, state, goal, input, labels, step_count, step_limit,
        traceparent, deadline_at, planned_at)
    select %(task_id)s::uuid, tenant_id, team_name, team_digest,
        case when %(planning)s::boolean then 'planning' else 'running' end,
        goal, input, labels, (select count(*) from given), step_limit, %(traceparent)s::text,
        clock_timestamp() + (deadline_at - created_at), -- as long as the origin had
        case when not %(planning)s::boolean then clock_timestamp() end
    from origin
    returning id, tenant_id, team_name, traceparent
), made as (
    insert into steps (id, tenant_id, task_id, key, role, agent, queue, reviewer, reviewer_queue, input, optional, rank,
        has_dependents, needs_left, state, epoch, attempt_count, rejection_count, question_count, degraded, ready_at,
        finished_at)
    select g.id, t.tenant_id, t.id, s.key, s.role, s.agent, s.queue, s.reviewer, s.reviewer_queue,
        coalesce(g.input, s.input), s.optional, s.rank, s.has_dependents, g.needs_left,
        case when g.shared then 'succeeded' when g.needs_left = 0 then 'ready' else 'blocked' end,
        case when g.shared then s.epoch when g.needs_left = 0 then 1 else 0 end,
        case when g.shared then s.attempt_count else 0 end,
        case when g.shared then s.rejection_count else 0 end,
        case when g.shared then s.question_count else 0 end,
        case when g.shared then s.degraded end,
        case when g.shared then s.ready_at when g.needs_left = 0 then clock_timestamp() end,
        case when g.shared then s.finished_at end
    from made_task t
    cross join given g
    join steps s on s.id = g.from_id
    order by g.id
    returning id, epoch, tenant_id, task_id, queue, role, state
), remembered as (
    -- A step shared by a fork of a fork ran where it ran.
    insert into shared_steps (step_id, tenant_id, task_id, from_task_id, from_step_id)
    select g.id, t.tenant_id, t.id, coalesce(h.from_task_id, %(origin)s::uuid), coalesce(h.from_step_id, g.from_id)
    from made_task t
    cross join given g
    left join shared_steps h on h.step_id = g.from_id
    where g.shared
), attempted as (
    -- The story of each goes with it: whoever reads it sees who made the output, after what, and what the gates said.
    insert into attempts (step_id, epoch, tenant_id, task_id, role, agent, attempt, worker, state, started_at,
        finished_at, error, verdicts, progress, log_tail, code_hash, seconds)
    select g.id, a.epoch, a.tenant_id, t.id, a.role, a.agent, a.attempt, a.worker, a.state, a.started_at,
        a.finished_at, a.error, a.verdicts, a.progress, a.log_tail, a.code_hash, a.seconds
    from made_task t
    cross join given g
    join attempts a on a.step_id = g.from_id
    where g.shared
), stored as (
    insert into outputs (step_id, epoch, tenant_id, task_id, body, accepted_at)
    select g.id, o.epoch, o.tenant_id, t.id, o.body, o.accepted_at
    from made_task t
    cross join given g
    join outputs o on o.step_id = g.from_id
    where g.shared
), linked as (
    insert into dependencies (tenant_id, task_id, step_id, needs_id, input_epoch)
    select t.tenant_id, t.id, n.step_id, n.needs_id, o.epoch
    from made_task t
    cross join jsonb_to_recordset(%(needs)s::jsonb) as n (step_id uuid, needs_id uuid, shared_id uuid)
    left join outputs o on o.step_id = n.shared_id
), noted as (
    insert into forks (task_id, tenant_id, from_task_id, from_step_id, from_step_key, actor, edited)
    select id, tenant_id, %(origin)s::uuid, %(from_id)s::uuid, %(from_key)s::text, %(actor)s::text, %(edited)s::boolean
    from made_task
), told as (
    insert into events (tenant_id, task_id, type, data)
    select tenant_id, id, 'task.submitted', jsonb_build_object('team', team_name) from made_task
    union all
    select tenant_id, id, 'task.forked', jsonb_build_object('from', %(origin)s::uuid, 'step', %(from_key)s::text,
        'actor', %(actor)s::text, 'edited', %(edited)s::boolean, 'shared', (select count(*) from given where shared))
    from made_task
    union all
    select tenant_id, %(origin)s::uuid, 'task.forked',
        jsonb_build_object('to', id, 'step', %(from_key)s::text, 'actor', %(actor)s::text)
    from made_task
)
insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, published_at, publish_count)
select m.id, m.epoch, m.tenant_id, m.task_id, m.queue,
    case m.role when 'planner' then 'plan' else 'execute' end, t.traceparent,
    case when m.turn <= %(direct)s::int then clock_timestamp() end,
    case when m.turn <= %(direct)s::int then 1 else 0 end
from (select *, row_number() over (order by id) as turn from made where state = 'ready') as m
join made_task t on t.id = m.task_id
returning step_id, epoch, queue, kind, traceparent, published_at is not null as published;
