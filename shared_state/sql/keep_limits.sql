-- The limits of a team's agents, as the version applied last has them. What was parked by one that is lifted the relay
-- finds.
with given as (
    select * from jsonb_to_recordset(%(limits)s::jsonb) as g (agent text, concurrency int)
), lifted as (
    delete from rules r
    where r.tenant_id = %(tenant)s
        and r.team_name = %(team)s -- guard: team
        and r.concurrency > 0 -- guard: limit
        and r.agent not in (select agent from given) -- guard: lifted
)
insert into rules (tenant_id, team_name, agent, concurrency)
select %(tenant)s, %(team)s, agent, concurrency from given
on conflict (tenant_id, team_name, agent, task_id, (concurrency = 0)) where ended_at is null
    do update set concurrency = excluded.concurrency, set_at = excluded.set_at
    where rules.concurrency <> excluded.concurrency;
