-- The reviewer accepted: the pending proposal becomes the accepted output, under the epoch of the attempt that made it.
with given as (
    select *
    from jsonb_to_recordset(%(items)s::jsonb) as g (
        id uuid, epoch bigint, verdicts jsonb, log_tail text, code_hash text, seconds real)
    order by id
), locked as (
    select g.*
    from given g
    cross join lateral (
        select s.cancel_requested_at, s.lease_until, s.state
        from steps s
        where s.id = g.id
            and s.epoch = g.epoch -- guard: epoch
        offset 0
        for no key update -- guard: row lock
    ) s
    where s.state = 'reviewing' -- guard: reviewing
        and s.lease_until is not null -- guard: held
        and s.cancel_requested_at is null -- guard: not cancelled
), pending as (
    select l.*, p.epoch as proposal_epoch
    from locked l
    cross join lateral (
        select p.epoch
        from proposals p
        where p.step_id = l.id
            and p.state = 'pending' -- guard: pending
        for no key update
    ) p
), approved as (
    update proposals p
    set state = 'accepted'
    from pending l
    where p.step_id = l.id and p.epoch = l.proposal_epoch
    returning p.body, p.degraded, l.*
), accepted as (
    update steps s
    set state = 'succeeded', finished_at = clock_timestamp(), lease_until = null, worker = null, feedback = null,
        degraded = p.degraded
    from approved p
    where s.id = p.id
    returning s.tenant_id, s.task_id, s.key, p.*
), ended as (
    update attempts a
    set state = 'succeeded', finished_at = clock_timestamp(), log_tail = s.log_tail, code_hash = s.code_hash,
        seconds = s.seconds
    from accepted s
    where a.step_id = s.id and a.epoch = s.epoch
), stored as (
    insert into outputs (step_id, epoch, tenant_id, task_id, body)
    select id, proposal_epoch, tenant_id, task_id, body from accepted
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'step.succeeded', jsonb_build_object('step', key, 'reviewed', true)
    from accepted
)
select id, epoch from accepted;
