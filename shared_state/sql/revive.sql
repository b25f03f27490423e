-- After a redrive: what was skipped runs after all, unless something else it needs is still dead; and every blocked
-- step counts again what it waits for.
with recursive doomed as (
    select d.step_id
    from steps s
    join dependencies d on d.needs_id = s.id
    where s.task_id = any (%(ids)s::uuid[])
        and s.state in ('dead', 'failed') -- guard: given up
        and not s.optional -- guard: required
    union
    select d.step_id from dependencies d join doomed on d.needs_id = doomed.step_id
), counted as (
    select s.id, s.state,
        (select count(*)
        from dependencies d
        join steps n on n.id = d.needs_id
        where d.step_id = s.id
            and n.state <> 'succeeded' -- guard: unsettled
            and not (n.optional and n.state in ('dead', 'failed')) -- guard: optional
        )::int as needs_left
    from steps s
    where s.task_id = any (%(ids)s::uuid[])
        and s.state in ('blocked', 'skipped') -- guard: not begun
        and not exists (select 1 from doomed where doomed.step_id = s.id) -- guard: not doomed
)
update steps s
set state = 'blocked', finished_at = null, needs_left = c.needs_left
from counted c
where s.id = c.id
    and c.needs_left > 0 -- guard: waits
;
