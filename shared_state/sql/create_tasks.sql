with given as (
    select *
    from jsonb_to_recordset(%(tasks)s::jsonb) as g (
        id uuid, tenant_id text, team_name text, team_digest text, state text, goal text, input jsonb, labels jsonb,
        step_count int, step_limit int, traceparent text, deadline_seconds double precision, planned boolean)
), made as (
    insert into tasks (id, tenant_id, team_name, team_digest, state, goal, input, labels, step_count, step_limit,
        traceparent, deadline_at, planned_at)
    select id, tenant_id, team_name, team_digest, state, goal, input, labels, step_count, step_limit, traceparent,
        clock_timestamp() + make_interval(secs => deadline_seconds),
        case when planned then clock_timestamp() end
    from given
    order by id
    returning id, tenant_id, team_name
)
insert into events (tenant_id, task_id, type, data)
select tenant_id, id, 'task.submitted', jsonb_build_object('team', team_name) from made;
