-- Publish waiting entries up to the window of each queue, in turns: every task gets its first entries out before any
-- task gets many, so a task of ten thousand steps does not starve one of three.
with recursive queues as (
    (select queue from outbox where published_at is null order by queue limit 1)
    union all
    select (select o.queue from outbox o where o.published_at is null and o.queue > q.queue order by o.queue limit 1)
    from queues q
    where q.queue is not null
), room as (
    select q.queue,
        %(window)s - (select count(*) from outbox o where o.queue = q.queue and o.published_at is not null) as room
    from queues q
    where q.queue is not null
), waiting_tasks as (
    (select distinct on (r.queue) r.queue, o.task_id
    from room r
    join lateral (select task_id from outbox o where o.queue = r.queue and o.published_at is null
        order by o.task_id limit 1) o on true
    where r.room > 0)
    union all
    select w.queue, (select o.task_id from outbox o
        where o.queue = w.queue and o.published_at is null and o.task_id > w.task_id order by o.task_id limit 1)
    from waiting_tasks w
    where w.task_id is not null
), turns as (
    select o.step_id, r.queue, r.room, row_number() over (partition by r.queue order by o.turn, o.step_id) as place
    from waiting_tasks w
    join room r on r.queue = w.queue
    join lateral (
        select o.step_id, row_number() over (order by o.step_id) as turn
        from outbox o
        where o.queue = w.queue and o.task_id = w.task_id and o.published_at is null
        order by o.step_id
        limit greatest(r.room, 0)
    ) o on true
    where w.task_id is not null
), chosen as (
    select t.step_id
    from turns t
    cross join lateral (
        select
        from outbox o
        where o.step_id = t.step_id
            and o.publish_count = 0
        for update skip locked
    ) o
    where t.place <= t.room
)
update outbox o
set published_at = clock_timestamp(), publish_count = o.publish_count + 1
where o.step_id = any (array(select step_id from chosen))
returning o.step_id, o.epoch, o.queue, o.kind, o.traceparent, true as published;
