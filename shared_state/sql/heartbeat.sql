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
        for update -- guard: row lock
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
)
select id, epoch, cancelled from extended;
