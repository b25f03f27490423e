-- By which rule each of these entries may not begin, if by any: its task, its team or its agent is paused, or its agent
-- is limited and it has none of the places. Read without a lock: what is set after this finds the next claim.
select o.step_id, (
    select coalesce(
        (select r.id -- guard: task
        from rules r
        where r.task_id = o.task_id and r.ended_at is null),
        (select r.id -- guard: team
        from rules r
        where r.tenant_id = o.tenant_id and r.team_name = t.team_name and r.ended_at is null
            and (r.agent is null
                or r.agent = case o.kind when 'review' then s.reviewer else s.agent end)
            and (r.concurrency = 0
                or r.id is distinct from o.limit_id)
        order by r.concurrency
        limit 1),
        null)
    from steps s
    join tasks t on t.id = s.task_id
    where s.id = o.step_id) as rule_id
from outbox o
where o.step_id = any (%(ids)s::uuid[]);
