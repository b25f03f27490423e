-- Planners' attempts succeed and their tasks may now grow by the plans' steps, within each task's limit. The steps are
-- created by create_steps in the same transaction; the task rows are already locked, so no cancel comes in between.
with given as (
    select *
    from jsonb_to_recordset(%(items)s::jsonb) as g (
        id uuid, epoch bigint, count int, verdicts jsonb, log_tail text, code_hash text, seconds real)
    order by id
), locked as (
    select g.*
    from given g
    cross join lateral (
        select s.cancel_requested_at, s.state
        from steps s
        where s.id = g.id
            and s.epoch = g.epoch -- guard: epoch
        offset 0
        for no key update -- guard: row lock
    ) s
    where s.state = 'running' -- guard: running
        and s.cancel_requested_at is null -- guard: not cancelled
), accepted as (
    update steps s
    set state = 'succeeded', finished_at = clock_timestamp(), lease_until = null, worker = null, feedback = null
    from locked l
    where s.id = l.id
    returning s.tenant_id, s.task_id, s.key, l.*
), ended as (
    update attempts a
    set state = 'succeeded', finished_at = clock_timestamp(), verdicts = s.verdicts, log_tail = s.log_tail,
        code_hash = s.code_hash, seconds = s.seconds
    from accepted s
    where a.step_id = s.id and a.epoch = s.epoch
), stored as (
    insert into outputs (step_id, epoch, tenant_id, task_id, body)
    select id, epoch, tenant_id, task_id, jsonb_build_object('steps', count) from accepted
), grown as (
    update tasks t
    set state = 'running', planned_at = clock_timestamp(), step_count = t.step_count + s.count
    from accepted s
    where t.id = s.task_id
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'plan.accepted', jsonb_build_object('step', key, 'steps', count)
    from accepted
)
select id, epoch from accepted;
