-- Agents that may run only so often at once: how many of their steps run, and how many wait for a place.
with running as (
    select t.team_name, case s.state when 'reviewing' then s.reviewer else s.agent end as agent, count(*) as count
    from attempts a
    cross join lateral (select * from steps s where s.id = a.step_id offset 0) s
    join tasks t on t.id = s.task_id
    where a.state = 'running' and s.tenant_id = %(tenant)s
    group by 1, 2
)
select r.team_name, r.agent, r.concurrency, coalesce(n.count, 0) as running,
    (select count(*) from parked k where k.rule_id = r.id) as held
from rules r
left join running n on n.team_name = r.team_name and n.agent = r.agent
where r.tenant_id = %(tenant)s and r.ended_at is null and r.concurrency > 0
order by r.team_name, r.agent;
