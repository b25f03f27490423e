-- Steps that are neither blocked nor over, by agent. Of a long backlog only `limit` ready steps are looked at.
select case o.kind when 'review' then s.reviewer else s.agent end as agent, 'ready' as state, count(*) as count,
    extract(epoch from clock_timestamp() - min(o.created_at))::float8 as oldest_seconds
from (select step_id, kind, created_at from outbox limit %(limit)s::int) o
join steps s on s.id = o.step_id
group by 1
union all
select agent, 'running', count(*), extract(epoch from clock_timestamp() - min(started_at))::float8
from attempts
where state = 'running'
group by agent
union all
select case s.state when 'reviewing' then s.reviewer else s.agent end, 'backoff', count(*), null
from steps s
where s.due_at is not null and s.state in ('ready', 'reviewing') and s.lease_until is null
group by 1
union all
select s.agent, 'waiting', count(*), extract(epoch from clock_timestamp() - min(q.asked_at))::float8
from questions q
join steps s on s.id = q.step_id
where q.state = 'open'
group by s.agent;
