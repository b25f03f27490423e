-- Pause a task, a team, or one agent of a team. What runs goes on; every claim that begins after this finds it.
with made as (
    insert into rules (id, tenant_id, task_id, team_name, agent, concurrency, reason, set_by)
    values (%(id)s, %(tenant)s, %(task_id)s, %(team)s, %(agent)s, 0, %(reason)s, %(actor)s)
    -- What is paused stays as it is.
    on conflict (tenant_id, team_name, agent, task_id, (concurrency = 0)) where ended_at is null do nothing
    returning *
), told as (
    insert into events (tenant_id, task_id, type, data)
    select tenant_id, task_id, 'task.paused', jsonb_build_object('actor', set_by, 'reason', reason)
    from made
    where task_id is not null
)
select id from made;
