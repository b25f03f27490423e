-- Outputs that passed their gates and need a reviewer: kept in quarantine, the step waits as reviewing under a new epoch.
with given as (
    select *
    from jsonb_to_recordset(%(items)s::jsonb) as g (
        id uuid, epoch bigint, output jsonb, degraded text, verdicts jsonb, log_tail text, code_hash text, seconds real)
    order by id
), locked as (
    select g.*
    from given g
    cross join lateral (
        select s.cancel_requested_at, s.state
        from steps s
        where s.id = g.id
            and s.epoch = g.epoch -- guard: epoch
        offset 0
        for no key update -- guard: row lock
    ) s
    where s.state = 'running' -- guard: running
        and s.cancel_requested_at is null -- guard: not cancelled
), proposed as (
    update steps s
    set state = 'reviewing', epoch = s.epoch + 1, attempt_count = 0, lease_until = null, worker = null,
        ready_at = clock_timestamp()
    from locked l
    where s.id = l.id
    returning s.epoch as next_epoch, s.tenant_id, s.task_id, s.key, s.reviewer_queue, l.*
), ended as (
    update attempts a
    set state = 'succeeded', finished_at = clock_timestamp(), verdicts = s.verdicts, log_tail = s.log_tail,
        code_hash = s.code_hash, seconds = s.seconds
    from proposed s
    where a.step_id = s.id and a.epoch = s.epoch
), stored as (
    insert into proposals (step_id, epoch, tenant_id, task_id, state, body, degraded)
    select id, epoch, tenant_id, task_id, 'pending', output, degraded from proposed
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, next_epoch, 'step.reviewing', jsonb_build_object('step', key) from proposed
), queued as (
    insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, published_at, publish_count)
    select s.id, s.next_epoch, s.tenant_id, s.task_id, s.reviewer_queue, 'review', t.traceparent, clock_timestamp(), 1
    from proposed s
    join tasks t on t.id = s.task_id
    returning step_id, epoch, queue, kind, traceparent, true as published
)
select step_id as id, epoch - 1 as epoch, epoch as next_epoch, queue, kind, traceparent, published from queued;
