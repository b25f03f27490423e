-- Give steps up: dead, with exactly one open dead letter each. What needed them is skipped or woken by the statements
-- that follow in the same transaction.
with given as (
    select *
    from jsonb_to_recordset(%(items)s::jsonb) as g (
        id uuid, epoch bigint, expired boolean, dead_letter_id uuid, failure jsonb, output jsonb, feedback jsonb,
        verdicts jsonb, log_tail text, code_hash text, seconds real)
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
), buried as (
    update steps s
    set state = 'dead', epoch = s.epoch + 1, lease_until = null, worker = null, finished_at = clock_timestamp(),
        feedback = coalesce(g.feedback, s.feedback)
    from locked g
    where s.id = g.id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key, s.optional, s.queue
), ended as (
    update attempts a
    set state = case when g.expired then 'expired' else 'failed' end, finished_at = clock_timestamp(),
        error = g.failure, verdicts = g.verdicts, log_tail = g.log_tail, code_hash = g.code_hash, seconds = g.seconds
    from locked g
    where a.step_id = g.id and a.epoch = g.epoch
), refused as (
    update proposals p
    set state = 'rejected'
    from buried s
    where p.step_id = s.id
        and p.state = 'pending'
), kept as (
    insert into proposals (step_id, epoch, tenant_id, task_id, state, body)
    select s.id, g.epoch, s.tenant_id, s.task_id, 'rejected', g.output
    from buried s
    join locked g on g.id = s.id
    where g.output is not null
), opened as (
    insert into dead_letters (id, tenant_id, task_id, step_id, epoch, reason, text, queue)
    select g.dead_letter_id, s.tenant_id, s.task_id, s.id, g.epoch, g.failure ->> 'code', g.failure ->> 'text', s.queue
    from buried s
    join locked g on g.id = s.id
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select s.tenant_id, s.task_id, s.id, g.epoch, 'step.dead',
        jsonb_build_object('step', s.key, 'code', g.failure ->> 'code', 'text', g.failure ->> 'text',
            'dead_letter', g.dead_letter_id)
    from buried s
    join locked g on g.id = s.id
)
select s.id, g.epoch, s.optional from buried s join locked g on g.id = s.id;
