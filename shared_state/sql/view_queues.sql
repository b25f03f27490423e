-- Every queue that is known, served by a worker, or holds a step of the tenant.
with entries as (
    select queue, count(*) filter (where published_at is null) as waiting,
        count(*) filter (where published_at is not null) as published,
        count(*) filter (where published_at is not null and publish_count > 1) as republished,
        extract(epoch from clock_timestamp() - min(created_at))::float8 as oldest_seconds
    from outbox
    where tenant_id = %(tenant)s
    group by queue
), held as (
    -- A rule that is gone held nothing back: its entries are on their way to the outbox.
    select k.queue, count(*) filter (where r.concurrency = 0) as paused,
        count(*) filter (where r.concurrency > 0) as limited, count(*) filter (where r.id is null) as waiting
    from parked k
    left join rules r on r.id = k.rule_id and r.ended_at is null
    where k.tenant_id = %(tenant)s
    group by k.queue
), leased as (
    select case when s.state = 'reviewing' then coalesce(s.reviewer_queue, s.queue) else s.queue end as queue,
        count(*) as running
    from attempts a
    cross join lateral (select * from steps s where s.id = a.step_id offset 0) s
    where a.state = 'running' and s.tenant_id = %(tenant)s
    group by 1
), served as (
    select q.queue, count(*) as worker_count
    from workers w
    cross join jsonb_array_elements_text(w.queues) as q (queue)
    where w.state <> 'gone'
    group by q.queue
), names as (
    select unnest(%(known)s::text[]) as queue
    union select queue from entries
    union select queue from held
    union select queue from leased
    union select queue from served
)
select queue, coalesce(e.waiting, 0) + coalesce(h.waiting, 0) as waiting, coalesce(published, 0) as published,
    coalesce(republished, 0) as republished, coalesce(running, 0) as running, oldest_seconds,
    coalesce(paused, 0) as paused, coalesce(limited, 0) as limited,
    coalesce(worker_count, 0) as worker_count
from names
left join entries e using (queue)
left join held h using (queue)
left join leased using (queue)
left join served using (queue)
order by queue;
