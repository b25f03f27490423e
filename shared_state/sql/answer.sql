-- A person answered: the step is ready again under a new epoch; the attempts it used to ask do not count.
with answered as (
    update questions q
    set state = 'answered', answer = %(answer)s, answered_by = %(actor)s, answered_at = clock_timestamp()
    where q.id = %(id)s
        and q.tenant_id = %(tenant)s -- guard: tenant
        and q.state = 'open' -- guard: open
    returning q.id, q.step_id, q.task_id
), woken as (
    update steps s
    set state = 'ready', epoch = s.epoch + 1, attempt_count = 0, ready_at = clock_timestamp()
    from answered a
    where s.id = a.step_id
        and s.state = 'waiting' -- guard: waiting
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key, s.queue, s.role
), resumed as (
    update tasks t
    set state = case when t.planned_at is null then 'planning' else 'running' end
    from woken w
    where t.id = w.task_id
        and t.state = 'waiting' -- guard: waiting task
        and not exists ( -- guard: last question
            select 1 from questions q
            where q.task_id = t.id
                and q.state = 'open' -- guard: open question
                and q.id <> %(id)s)
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'step.answered', jsonb_build_object('step', key, 'actor', %(actor)s::text)
    from woken
)
insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, published_at, publish_count)
select w.id, w.epoch, w.tenant_id, w.task_id, w.queue, case w.role when 'planner' then 'plan' else 'execute' end,
    t.traceparent, clock_timestamp(), 1
from woken w
join tasks t on t.id = w.task_id
returning step_id, epoch, queue, kind, traceparent, true as published;
