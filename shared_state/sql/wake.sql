-- Steps that just settled (accepted, or optional and dead) are counted off in those that need them; who needs nothing
-- more is ready and queued. An accepted output is linked into each need it satisfies.
with freed as (
    select step_id, count(*)::int as count
    from dependencies
    where needs_id = any (%(ids)s::uuid[])
    group by step_id
    order by step_id
), linked as (
    update dependencies d
    set input_epoch = o.epoch
    from outputs o
    where d.needs_id = any (%(ids)s::uuid[]) and o.step_id = d.needs_id
), locked as (
    -- Skipped ones too: a redrive may be reviving them at this moment, and counting what they need.
    select f.step_id as id, f.count, s.state
    from freed f
    cross join lateral (
        select s.state
        from steps s
        where s.id = f.step_id
            and s.state in ('blocked', 'skipped')
        for no key update -- guard: row lock
    ) s
), woken as (
    update steps s
    set needs_left = s.needs_left - l.count,
        state = case when s.needs_left = l.count then 'ready' else s.state end,
        epoch = case when s.needs_left = l.count then s.epoch + 1 else s.epoch end,
        ready_at = case when s.needs_left = l.count then clock_timestamp() end
    from locked l
    where s.id = l.id
        and l.state = 'blocked' -- guard: blocked
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.queue, s.state
), queued as (
    insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, published_at, publish_count)
    select w.id, w.epoch, w.tenant_id, w.task_id, w.queue, 'execute', t.traceparent,
        case when w.turn <= %(direct)s then clock_timestamp() end,
        case when w.turn <= %(direct)s then 1 else 0 end
    from (select *, row_number() over (partition by task_id order by id) as turn from woken where state = 'ready') as w
    join tasks t on t.id = w.task_id
    returning step_id, epoch, queue, kind, traceparent, published_at is not null as published
), stranded as (
    -- Everything that needed these was skipped meanwhile, so one of them may have been its task's last open step.
    select d.task_id
    from dependencies d
    where d.needs_id = any (%(ids)s::uuid[])
    group by d.needs_id, d.task_id
    having not bool_or(d.step_id in (select l.id from locked l where l.state = 'blocked'))
)
select step_id, epoch, queue, kind, traceparent, published, null::uuid as stranded_task_id from queued
union all
select null, null, null, null, null, null, task_id from stranded;
