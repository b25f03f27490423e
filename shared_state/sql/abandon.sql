-- Attempts of a cancelled task: stopped by their worker, or found with a lapsed lease.
with given as (
    select *
    from jsonb_to_recordset(%(items)s::jsonb) as g (
        id uuid, epoch bigint, expired boolean, log_tail text, code_hash text, seconds real)
), locked as (
    select g.*
    from steps s
    join given g on g.id = s.id
        and g.epoch = s.epoch -- guard: epoch
    where s.lease_until is not null -- guard: held
        and s.cancel_requested_at is not null -- guard: cancelled
        and (not g.expired or s.lease_until < clock_timestamp()) -- guard: lapsed
    order by s.id
    for no key update of s -- guard: row lock
), abandoned as (
    update steps s
    set state = 'cancelled', lease_until = null, worker = null, finished_at = clock_timestamp()
    from locked l
    where s.id = l.id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key
), ended as (
    update attempts a
    set state = 'cancelled', finished_at = clock_timestamp(), log_tail = g.log_tail, code_hash = g.code_hash,
        seconds = g.seconds
    from abandoned s
    join locked g on g.id = s.id
    where a.step_id = s.id and a.epoch = s.epoch
), refused as (
    update proposals p
    set state = 'rejected'
    from abandoned s
    where p.step_id = s.id
        and p.state = 'pending'
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'step.cancelled', jsonb_build_object('step', key) from abandoned
)
select id, epoch from abandoned;
