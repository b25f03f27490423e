-- The work that has run for longest, and the entries that have waited for longest to be sent for or taken.
with running as (
    select s.id as step_id, s.task_id, s.key, a.agent, 'running' as state, s.worker, a.started_at as since
    from attempts a
    cross join lateral (select * from steps s where s.id = a.step_id offset 0) s
    where a.state = 'running' and s.tenant_id = %(tenant)s
    order by a.started_at
    limit %(limit)s
), entries as (
    select step_id, created_at, kind from outbox where tenant_id = %(tenant)s order by created_at limit %(limit)s
), waiting as (
    select s.id, s.task_id, s.key, case e.kind when 'review' then s.reviewer else s.agent end, 'ready',
        null::text, e.created_at
    from entries e
    join steps s on s.id = e.step_id
)
select o.*, t.team_name
from (select * from running union all select * from waiting) o
join tasks t on t.id = o.task_id
order by o.since
limit %(limit)s;
