-- After cancel, in the same transaction: queue entries, questions and proposals of steps that are cancelled now.
with dequeued as (
    delete from outbox where task_id = %(task_id)s
), unparked as (
    delete from parked where task_id = %(task_id)s
), unasked as (
    update questions
    set state = 'cancelled', answered_at = clock_timestamp()
    where task_id = %(task_id)s
        and state = 'open' -- guard: open
)
update proposals p
set state = 'rejected'
from steps s
where s.task_id = %(task_id)s
    and s.state = 'cancelled' -- guard: cancelled
    and p.step_id = s.id
    and p.state = 'pending'
;
