-- End the pause of a task, a team, or one agent of a team, if there is one. The relay then finds its parked entries.
with ended as (
    update rules r
    set ended_at = clock_timestamp(), ended_by = %(actor)s
    where r.tenant_id = %(tenant)s -- guard: tenant
        and r.task_id is not distinct from %(task_id)s::uuid -- guard: task
        and r.team_name is not distinct from %(team)s::text -- guard: team
        and r.agent is not distinct from %(agent)s::text -- guard: agent
        and r.concurrency = 0 -- guard: pause
        and r.ended_at is null
    returning r.*
), told as (
    insert into events (tenant_id, task_id, type, data)
    select tenant_id, task_id, 'task.resumed', jsonb_build_object('actor', ended_by) from ended where task_id is not null
)
select id from ended;
