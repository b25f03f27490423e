-- End the tasks that have no open step left. Their rows are locked before this statement took its snapshot.
-- `offset 0` keeps each look at a task's steps one by key.
with ending as (
    select t.id,
        exists (select 1 from steps s
            where s.task_id = t.id and s.state in ('dead', 'failed') and not s.optional offset 0) as broken,
        exists (select 1 from steps s
            where s.task_id = t.id
                and (s.degraded is not null or s.optional and s.state in ('dead', 'failed', 'skipped')) offset 0) as degraded
    from tasks t
    where t.id = any (%(ids)s::uuid[])
        and t.state in ('planning', 'running', 'waiting', 'cancelling') -- guard: not ended
        and not exists ( -- guard: no open step
            select 1 from steps s
            where s.task_id = t.id and s.finished_at is null
            offset 0)
), ended as (
    update tasks t
    set state = case
            when t.cancel_requested_at is not null then 'cancelled'
            when e.broken then 'failed'
            else 'succeeded' end,
        degraded = e.degraded,
        error = case
            when t.cancel_requested_at is null and e.broken then
                (select jsonb_build_object('code', l.reason, 'text', l.text, 'step', s.key)
                from dead_letters l
                join steps s on s.id = l.step_id
                where l.task_id = t.id
                    and l.state <> 'redriven' -- guard: not redriven
                    and not s.optional -- guard: required
                order by l.created_at
                limit 1)
            else t.error end,
        finished_at = clock_timestamp()
    from ending e
    where t.id = e.id
    returning t.id, t.tenant_id, t.state, t.degraded, t.error
)
insert into events (tenant_id, task_id, type, data)
select tenant_id, id, 'task.' || state, jsonb_build_object('degraded', degraded, 'error', error) from ended
returning task_id as id, type;
