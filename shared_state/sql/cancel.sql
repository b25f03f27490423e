-- Cancel a task: what nobody holds is cancelled now; what a worker holds is flagged, and can neither commit nor go on.
-- This may have waited for a commit that woke or asked; clear_cancelled, with a later snapshot, removes what that left.
-- The task's time is taken last, so that whatever this waited for is dated before it.
with locked as (
    select s.id
    from tasks t
    join steps s on s.task_id = t.id
    where t.id = %(task_id)s
        and t.state in ('planning', 'running', 'waiting') -- guard: live
        and s.finished_at is null -- guard: open
    order by s.id
    for no key update of s -- guard: row lock
), reached as (
    update steps s
    set cancel_requested_at = clock_timestamp(),
        state = case when s.lease_until is null then 'cancelled' else s.state end,
        finished_at = case when s.lease_until is null then clock_timestamp() end,
        due_at = null
    from locked l
    where s.id = l.id
    returning s.id
), cancelled_task as (
    update tasks t
    set state = 'cancelling', cancel_requested_at = clock_timestamp(), error = %(error)s::jsonb
    from (select count(*) from reached) r
    where t.id = %(task_id)s
        and t.state in ('planning', 'running', 'waiting') -- guard: live task
    returning t.id, t.tenant_id
)
insert into events (tenant_id, task_id, type, data)
select tenant_id, id, 'task.cancelling', jsonb_build_object('actor', %(actor)s::text) from cancelled_task
returning task_id as id;
