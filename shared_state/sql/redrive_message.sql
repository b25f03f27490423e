-- Bytes that were no message, written anew by a person: the dead letter is closed and what was written is kept. Which
-- steps it names was checked before, in this transaction; a message of our own goes out for them.
with closed as (
    update dead_letters l
    set state = 'redriven', closed_at = clock_timestamp(), closed_by = %(actor)s
    where l.id = %(id)s
        and l.state = 'open'
        and l.step_id is null
    returning l.id, l.tenant_id
), kept as (
    insert into dead_letter_edits (id, tenant_id, dead_letter_id, editor, after)
    select %(edit_id)s, tenant_id, id, %(actor)s, %(message)s::jsonb from closed
)
update outbox o
set published_at = clock_timestamp(), publish_count = o.publish_count + 1
from closed
where o.step_id = any (%(step_ids)s::uuid[])
returning o.step_id, o.epoch, o.queue, o.kind, o.traceparent, true as published;
