-- Create the steps of accepted plans (or the one step of a task without a plan) with their needs, and queue the first.
-- `direct` rows of a task are published by whoever commits this; the rest wait for the relay's fair turn. What planners
-- made comes unconditionally, in one piece with the acceptance: it counts where that was written by this transaction.
with accepted as materialized (
    select p.id
    from steps p
    where p.id = any (%(planners)s::uuid[])
        and p.xmin = pg_current_xact_id()::xid -- guard: accepted here
), given as (
    select *
    from jsonb_to_recordset(%(steps)s::jsonb) as g (
        id uuid, tenant_id text, task_id uuid, key text, role text, agent text, queue text, reviewer text,
        reviewer_queue text, input jsonb, optional boolean, rank int, has_dependents boolean, needs_left int,
        planner_id uuid)
    where g.planner_id is null or g.planner_id in (select id from accepted)
), made as (
    insert into steps (id, tenant_id, task_id, key, role, agent, queue, reviewer, reviewer_queue, input, optional, rank,
        has_dependents, needs_left, state, epoch, ready_at)
    select id, tenant_id, task_id, key, role, agent, queue, reviewer, reviewer_queue, input, optional, rank,
        has_dependents, needs_left,
        case when needs_left = 0 then 'ready' else 'blocked' end,
        case when needs_left = 0 then 1 else 0 end,
        case when needs_left = 0 then clock_timestamp() end
    from given
    order by id
    returning id, epoch, tenant_id, task_id, queue, role, state
), linked as (
    insert into dependencies (tenant_id, task_id, step_id, needs_id)
    select tenant_id, task_id, step_id, needs_id
    from jsonb_to_recordset(%(needs)s::jsonb) as n (
        tenant_id text, task_id uuid, step_id uuid, needs_id uuid, planner_id uuid)
    where n.planner_id is null or n.planner_id in (select id from accepted)
)
insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, published_at, publish_count)
select m.id, m.epoch, m.tenant_id, m.task_id, m.queue,
    case m.role when 'planner' then 'plan' else 'execute' end, t.traceparent,
    case when m.turn <= %(direct)s then clock_timestamp() end,
    case when m.turn <= %(direct)s then 1 else 0 end
from (select *, row_number() over (partition by task_id order by id) as turn from made where state = 'ready') as m
join tasks t on t.id = m.task_id
returning step_id, epoch, queue, kind, traceparent, published_at is not null as published;
