-- The planner's attempt succeeds and its task may now grow by the plan's steps, within the task's limit. Its steps are
-- created by create_steps in the same transaction; the task row is already locked, so no cancel comes in between.
with locked as (
    select s.id
    from steps s
    where s.id = %(id)s and s.epoch = %(epoch)s and s.state = 'running' and s.cancel_requested_at is null
    for update of s
), accepted as (
    update steps s
    set state = 'succeeded', finished_at = clock_timestamp(), lease_until = null, worker = null, feedback = null
    from locked l
    where s.id = l.id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key
), ended as (
    update attempts a
    set state = 'succeeded', finished_at = clock_timestamp(), verdicts = %(verdicts)s::jsonb,
        log_tail = %(log_tail)s, code_hash = %(code_hash)s, seconds = %(seconds)s
    from accepted s
    where a.step_id = s.id and a.epoch = s.epoch
), stored as (
    insert into outputs (step_id, epoch, tenant_id, task_id, body)
    select id, epoch, tenant_id, task_id, jsonb_build_object('steps', %(count)s::int) from accepted
), grown as (
    update tasks t
    set state = 'running', planned_at = clock_timestamp(), step_count = t.step_count + %(count)s::int
    from accepted s
    where t.id = s.task_id
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'plan.accepted', jsonb_build_object('step', key, 'steps', %(count)s::int)
    from accepted
)
select id, epoch, tenant_id, task_id from accepted;
