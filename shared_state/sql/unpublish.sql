-- Entries whose messages the broker did not take: they wait for the relay's next pass.
with failed as (
    select * from unnest(%(ids)s::uuid[], %(epochs)s::bigint[]) as f (id, epoch)
), locked as (
    select o.step_id
    from outbox o
    join failed f on f.id = o.step_id
        and f.epoch = o.epoch -- guard: epoch
    order by o.step_id
    for update of o skip locked
)
update outbox o
set published_at = null, publish_count = 0
from locked l
where o.step_id = l.step_id;
