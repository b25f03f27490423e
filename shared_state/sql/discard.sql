with closed as (
    update dead_letters l
    set state = 'discarded', closed_at = clock_timestamp(), closed_by = %(actor)s, close_reason = %(reason)s
    where l.id = %(id)s
        and l.state = 'open' -- guard: open
    returning l.id, l.step_id
), failed as (
    update steps s
    set state = 'failed', finished_at = clock_timestamp()
    from closed c
    where s.id = c.step_id
        and s.state = 'dead' -- guard: dead
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, id, epoch, 'step.discarded',
        jsonb_build_object('step', key, 'actor', %(actor)s::text, 'reason', %(reason)s::text)
    from failed
)
select id from closed;
