-- Cancel a task: what nobody holds is cancelled now; what a worker holds is flagged, and can neither commit nor go on.
-- This may have waited for a commit that woke or asked; clear_cancelled, with a later snapshot, removes what that left.
with cancelled_task as (
    update tasks t
    set state = 'cancelling', cancel_requested_at = clock_timestamp(), error = %(error)s::jsonb
    where t.id = %(task_id)s and t.state in ('planning', 'running', 'waiting')
    returning t.id, t.tenant_id
), reached as (
    update steps s
    set cancel_requested_at = clock_timestamp(),
        state = case when s.lease_until is null then 'cancelled' else s.state end,
        finished_at = case when s.lease_until is null then clock_timestamp() end,
        due_at = null
    from cancelled_task t
    where s.task_id = t.id and s.state in ('blocked', 'ready', 'running', 'reviewing', 'waiting')
    returning s.id
)
insert into events (tenant_id, task_id, type, data)
select tenant_id, id, 'task.cancelling', jsonb_build_object('actor', %(actor)s::text) from cancelled_task
returning task_id as id;
