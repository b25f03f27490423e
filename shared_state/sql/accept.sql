-- Accept outputs: fenced by the attempt's epoch, refused after a cancel. The output row is what makes it readable.
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
), accepted as (
    update steps s
    set state = 'succeeded', finished_at = clock_timestamp(), lease_until = null, worker = null, feedback = null,
        degraded = g.degraded
    from locked l
    join given g on g.id = l.id
    where s.id = l.id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key
), ended as (
    update attempts a
    set state = 'succeeded', finished_at = clock_timestamp(), verdicts = g.verdicts, log_tail = g.log_tail,
        code_hash = g.code_hash, seconds = g.seconds
    from accepted s
    join given g on g.id = s.id
    where a.step_id = s.id and a.epoch = s.epoch
), stored as (
    insert into outputs (step_id, epoch, tenant_id, task_id, body)
    select s.id, s.epoch, s.tenant_id, s.task_id, g.output
    from accepted s
    join given g on g.id = s.id
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'step.succeeded', jsonb_build_object('step', key) from accepted
)
select id, epoch from accepted;
