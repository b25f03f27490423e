-- What is paused, the longest first; what has ended needs no resuming. `held` counts the entries that wait for it.
-- With a task: what concerns that one.
select r.*, t.team_name as task_team, (select count(*) from parked k where k.rule_id = r.id) as held
from rules r
left join tasks t on t.id = r.task_id
where r.tenant_id = %(tenant)s and r.ended_at is null and r.concurrency = 0 and t.finished_at is null
    and (%(task_id)s::uuid is null or r.task_id = %(task_id)s
        or r.team_name = (select c.team_name from tasks c where c.id = %(task_id)s))
order by r.set_at, r.id;
