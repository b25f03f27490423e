-- Steps whose backoff is over get their queue entry back; so does any ready step that lost it.
with due as (
    select s.id
    from steps s
    where s.due_at <= statement_timestamp() -- guard: due
        and s.state in ('ready', 'reviewing') -- guard: not ended
        and s.lease_until is null -- guard: not held
    order by s.due_at
    limit %(limit)s
    for no key update of s skip locked
), staged as (
    update steps s
    set due_at = null, ready_at = clock_timestamp()
    from due
    where s.id = due.id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.state, s.role, s.queue, s.reviewer_queue
)
insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent)
select s.id, s.epoch, s.tenant_id, s.task_id,
    case s.state when 'reviewing' then s.reviewer_queue else s.queue end,
    case when s.state = 'reviewing' then 'review' when s.role = 'planner' then 'plan' else 'execute' end,
    t.traceparent
from staged s
join tasks t on t.id = s.task_id
on conflict (step_id) do nothing
returning step_id as id;
