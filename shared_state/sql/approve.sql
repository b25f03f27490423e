-- The reviewer accepted: the pending proposal becomes the accepted output, under the epoch of the attempt that made it.
with given as (
    select *
    from jsonb_to_recordset(%(items)s::jsonb) as g (
        id uuid, epoch bigint, verdicts jsonb, log_tail text, code_hash text, seconds real)
), locked as (
    select s.id
    from steps s
    join given g on g.id = s.id and g.epoch = s.epoch
    where s.state = 'reviewing' and s.lease_until is not null and s.cancel_requested_at is null
    order by s.id
    for update of s
), approved as (
    update proposals p
    set state = 'accepted'
    from locked l
    where p.step_id = l.id and p.state = 'pending'
    returning p.step_id, p.epoch, p.body, p.degraded
), accepted as (
    update steps s
    set state = 'succeeded', finished_at = clock_timestamp(), lease_until = null, worker = null, feedback = null,
        degraded = p.degraded
    from approved p
    where s.id = p.step_id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key
), ended as (
    update attempts a
    set state = 'succeeded', finished_at = clock_timestamp(), log_tail = g.log_tail, code_hash = g.code_hash,
        seconds = g.seconds
    from accepted s
    join given g on g.id = s.id
    where a.step_id = s.id and a.epoch = s.epoch
), stored as (
    insert into outputs (step_id, epoch, tenant_id, task_id, body)
    select s.id, p.epoch, s.tenant_id, s.task_id, p.body
    from accepted s
    join approved p on p.step_id = s.id
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'step.succeeded', jsonb_build_object('step', key, 'reviewed', true)
    from accepted
)
select id, epoch from accepted;
