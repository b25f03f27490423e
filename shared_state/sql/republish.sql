-- Entries published long ago and still unclaimed: their message may be lost. Each time wait twice as long, so that a
-- backlog that is merely slow is not flooded; a duplicate costs the claimer one refused claim.
with late as (
    select o.step_id
    from outbox o
    where o.published_at < clock_timestamp()
        - make_interval(secs => %(after_seconds)s) * (2 ^ least(greatest(o.publish_count - 1, 0), 5))
    order by o.published_at
    limit %(limit)s
    for update skip locked
)
update outbox o
set published_at = clock_timestamp(), publish_count = o.publish_count + 1
where o.step_id = any (array(select step_id from late))
returning o.step_id, o.epoch, o.queue, o.kind, o.traceparent, true as published;
