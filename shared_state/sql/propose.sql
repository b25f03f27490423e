-- Outputs that passed their gates and need a reviewer: kept in quarantine, the step waits as reviewing under a new epoch.
with given as (
    select *
    from jsonb_to_recordset(%(items)s::jsonb) as g (
        id uuid, epoch bigint, output jsonb, degraded text, verdicts jsonb, log_tail text, code_hash text, seconds real)
), locked as (
    select s.id
    from steps s
    join given g on g.id = s.id and g.epoch = s.epoch
    where s.state = 'running' and s.cancel_requested_at is null
    order by s.id
    for update of s
), proposed as (
    update steps s
    set state = 'reviewing', epoch = s.epoch + 1, attempt_count = 0, lease_until = null, worker = null,
        ready_at = clock_timestamp()
    from locked l
    where s.id = l.id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key, s.reviewer_queue
), ended as (
    update attempts a
    set state = 'succeeded', finished_at = clock_timestamp(), verdicts = g.verdicts, log_tail = g.log_tail,
        code_hash = g.code_hash, seconds = g.seconds
    from proposed s
    join given g on g.id = s.id
    where a.step_id = g.id and a.epoch = g.epoch
), stored as (
    insert into proposals (step_id, epoch, tenant_id, task_id, state, body, degraded)
    select s.id, g.epoch, s.tenant_id, s.task_id, 'pending', g.output, g.degraded
    from proposed s
    join given g on g.id = s.id
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'step.reviewing', jsonb_build_object('step', key) from proposed
), queued as (
    insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, published_at, publish_count)
    select s.id, s.epoch, s.tenant_id, s.task_id, s.reviewer_queue, 'review', t.traceparent, clock_timestamp(), 1
    from proposed s
    join tasks t on t.id = s.task_id
    returning step_id, epoch, queue, kind, traceparent, true as published
)
select p.id, g.epoch, q.epoch as next_epoch, q.queue, q.kind, q.traceparent, q.published
from proposed p
join given g on g.id = p.id
join queued q on q.step_id = p.id;
