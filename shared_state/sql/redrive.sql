-- Open dead letters back to work: a new epoch, bounds counted anew. A letter that is not open any more is left alone, so
-- a second click does nothing. With a rate each gets a time of its own, and the stager queues it then. A deadline that
-- has passed is lifted: whoever redrives wants the task to run.
with opened as (
    select l.id, l.step_id
    from dead_letters l
    where l.id = any (%(ids)s::uuid[])
        and l.state = 'open' -- guard: open
        and l.step_id is not null
    order by l.id
    for no key update -- guard: row lock
), closed as (
    update dead_letters l
    set state = 'redriven', closed_at = clock_timestamp(), closed_by = %(actor)s
    from opened o
    where l.id = o.id
    returning l.id, l.step_id
), spaced as (
    select c.id, c.step_id,
        clock_timestamp() + make_interval(secs =>
            (%(before)s::int + row_number() over (order by c.id)) / %(per_second)s::float8) as due_at
    from closed c
), redriven as (
    update steps s
    set state = 'ready', epoch = s.epoch + 1, attempt_count = 0, rejection_count = 0, question_count = 0,
        due_at = c.due_at, finished_at = null, ready_at = clock_timestamp()
    from spaced c
    where s.id = c.step_id
        and s.state = 'dead' -- guard: dead
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key, s.agent, s.queue, s.role, s.due_at, c.id as letter_id
), reopened as (
    update tasks t
    set state = case
            when t.state in ('succeeded', 'failed') then
                case when t.planned_at is null then 'planning' else 'running' end
            else t.state end,
        error = null,
        deadline_at = case when t.deadline_at > clock_timestamp() then t.deadline_at end,
        finished_at = case when t.state in ('succeeded', 'failed') then null else t.finished_at end
    from (select distinct task_id from redriven) r
    where t.id = r.task_id
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'step.redriven', jsonb_build_object('step', key, 'actor', %(actor)s::text)
    from redriven
), queued as (
    insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, published_at, publish_count)
    select r.id, r.epoch, r.tenant_id, r.task_id, r.queue, case r.role when 'planner' then 'plan' else 'execute' end,
        t.traceparent, case when r.turn <= 20 then clock_timestamp() end, case when r.turn <= 20 then 1 else 0 end
    from (select *, row_number() over (partition by task_id order by id) as turn from redriven where due_at is null) r
    join tasks t on t.id = r.task_id
    returning step_id, epoch, queue, kind, traceparent, published_at is not null as published
)
select r.letter_id, r.tenant_id, r.task_id, r.id as step_id, r.epoch, r.agent, t.traceparent,
    q.queue, q.kind, q.published
from redriven r
join tasks t on t.id = r.task_id
left join queued q on q.step_id = r.id;
