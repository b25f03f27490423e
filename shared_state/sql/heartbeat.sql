-- Lengthen the leases of everything one worker process holds, and note progress. What is missing from the answer is
-- lost: stop it at once. What comes back cancelled: stop it and settle it as abandoned.
with held as (
    select *
    from unnest(%(ids)s::uuid[], %(epochs)s::bigint[], %(progress)s::text[]) as h (id, epoch, progress)
    order by id
), locked as (
    select h.*
    from held h
    cross join lateral (
        select s.lease_until
        from steps s
        where s.id = h.id
            and s.epoch = h.epoch -- guard: epoch
        offset 0
        for no key update -- guard: row lock
    ) s
    where s.lease_until is not null -- guard: held
), extended as (
    update steps s
    set lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
    from locked l
    where s.id = l.id
    returning s.id, s.epoch, s.cancel_requested_at is not null as cancelled
), noted as (
    update attempts a
    set progress = l.progress::jsonb
    from locked l
    where a.step_id = l.id and a.epoch = l.epoch and l.progress is not null
        and l.progress::jsonb is distinct from a.progress
    returning a.tenant_id, a.task_id, a.step_id, a.epoch, a.progress
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select n.tenant_id, n.task_id, n.step_id, n.epoch, 'step.progressed', jsonb_build_object('step', s.key) || n.progress
    from noted n
    join steps s on s.id = n.step_id
)
select id, epoch, cancelled from extended;
