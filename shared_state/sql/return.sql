-- Put steps back: after a failure, a lapsed lease, or a refused output. A new epoch, so the old holder is fenced off.
-- A refusal starts the count of attempts anew (rejections have their own bound), and what the step had no part in does
-- not count; a step due later is the stager's.
with given as (
    select *
    from jsonb_to_recordset(%(items)s::jsonb) as g (
        id uuid, epoch bigint, target text, after_seconds double precision, rejected boolean, counted boolean,
        expired boolean, attempt_state text, failure jsonb, output jsonb, feedback jsonb, verdicts jsonb, log_tail text,
        code_hash text, seconds real)
), locked as (
    select g.*
    from steps s
    join given g on g.id = s.id
        and g.epoch = s.epoch -- guard: epoch
    where s.lease_until is not null -- guard: held
        and s.cancel_requested_at is null -- guard: not cancelled
        and (not g.expired or s.lease_until < clock_timestamp()) -- guard: lapsed
    order by s.id
    for no key update of s -- guard: row lock
), returned as (
    update steps s
    set state = g.target, epoch = s.epoch + 1, lease_until = null, worker = null, ready_at = clock_timestamp(),
        due_at = case when g.after_seconds > 0 then clock_timestamp() + make_interval(secs => g.after_seconds) end,
        attempt_count = case when g.rejected then 0 else s.attempt_count - (not g.counted)::int end,
        rejection_count = s.rejection_count + g.rejected::int,
        feedback = coalesce(g.feedback, s.feedback)
    from locked g
    where s.id = g.id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key, s.state, s.role, s.queue, s.reviewer_queue, s.due_at
), ended as (
    update attempts a
    set state = g.attempt_state, finished_at = clock_timestamp(), error = g.failure, verdicts = g.verdicts,
        log_tail = g.log_tail, code_hash = g.code_hash, seconds = g.seconds
    from locked g
    where a.step_id = g.id and a.epoch = g.epoch
), refused as (
    update proposals p
    set state = 'rejected'
    from returned s
    where p.step_id = s.id
        and p.state = 'pending'
        and s.state = 'ready' -- guard: not under review
), kept as (
    insert into proposals (step_id, epoch, tenant_id, task_id, state, body)
    select s.id, g.epoch, s.tenant_id, s.task_id, 'rejected', g.output
    from returned s
    join locked g on g.id = s.id
    where g.output is not null
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select s.tenant_id, s.task_id, s.id, g.epoch,
        case when g.expired then 'step.expired' when g.rejected then 'step.rejected' else 'step.retried' end,
        jsonb_build_object('step', s.key, 'code', g.failure ->> 'code', 'text', g.failure ->> 'text')
    from returned s
    join locked g on g.id = s.id
), queued as (
    insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, published_at, publish_count)
    select s.id, s.epoch, s.tenant_id, s.task_id,
        case s.state when 'reviewing' then s.reviewer_queue else s.queue end,
        case when s.state = 'reviewing' then 'review' when s.role = 'planner' then 'plan' else 'execute' end,
        t.traceparent, clock_timestamp(), 1
    from returned s
    join tasks t on t.id = s.task_id
    where s.due_at is null -- guard: not due later
    returning step_id, epoch, queue, kind, traceparent, true as published
)
select s.id, g.epoch, q.epoch as next_epoch, q.queue, q.kind, q.traceparent, coalesce(q.published, false) as published
from returned s
join locked g on g.id = s.id
left join queued q on q.step_id = s.id;
