-- Everything that needs a dead step, directly or through others, can no longer run.
with recursive doomed as (
    select d.step_id from dependencies d where d.needs_id = any (%(ids)s::uuid[])
    union
    select d.step_id from dependencies d join doomed on d.needs_id = doomed.step_id
), locked as (
    select s.id
    from steps s
    join doomed on doomed.step_id = s.id
    where s.state = 'blocked' -- guard: blocked
    order by s.id
    for no key update of s
), skipped as (
    update steps s
    set state = 'skipped', finished_at = clock_timestamp()
    from locked l
    where s.id = l.id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key
)
insert into events (tenant_id, task_id, step_id, epoch, type, data)
select tenant_id, task_id, id, epoch, 'step.skipped', jsonb_build_object('step', key) from skipped;
