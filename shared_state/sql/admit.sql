-- Places of limited agents that are free go to entries parked for them. One relay at a time does this, so what is leased
-- and what has been given a place and is not yet claimed are all there is. A task with less in progress comes first, and
-- a lottery decides among equals: neither age nor size keeps a place for ever.
with recursive wanted as (
    select r.id, r.tenant_id, r.team_name, r.agent, r.concurrency
    from rules r
    where r.tenant_id > '' and r.ended_at is null and r.concurrency > 0
        and exists (select from parked k where k.rule_id = r.id)
        and not exists ( -- guard: not paused
            select from rules p
            where p.tenant_id = r.tenant_id and p.team_name = r.team_name and p.ended_at is null
                and p.concurrency = 0 and (p.agent is null or p.agent = r.agent))
), leased as materialized (
    select s.task_id, case s.state when 'reviewing' then s.reviewer else s.agent end as agent
    from steps s
    where s.id = any (array(
            select a.step_id from attempts a
            where a.step_id > '00000000-0000-0000-0000-000000000000' and a.state = 'running'))
        and exists (select from wanted)
), progressing as (
    select w.id, l.task_id, count(*) as count
    from leased l
    join tasks t on t.id = l.task_id
    join wanted w on w.tenant_id = t.tenant_id and w.team_name = t.team_name and w.agent = l.agent
    group by w.id, l.task_id
    union all
    select w.id, o.task_id, count(*)
    from wanted w
    join outbox o on o.limit_id = w.id
    group by w.id, o.task_id
), room as (
    select w.id, w.concurrency - coalesce((select sum(p.count) from progressing p where p.id = w.id), 0) as room
    from wanted w
), waiting_tasks as (
    (select distinct on (r.id) r.id, k.task_id
    from room r
    join lateral (select task_id from parked k where k.rule_id = r.id order by k.task_id limit 1) k on true
    where r.room > 0)
    union all
    select w.id, (select k.task_id from parked k
        where k.rule_id = w.id and k.task_id > w.task_id order by k.task_id limit 1)
    from waiting_tasks w
    where w.task_id is not null
), turns as (
    select k.step_id, r.room, row_number() over (partition by r.id order by
        k.turn + coalesce((select sum(p.count) from progressing p where p.id = r.id and p.task_id = w.task_id), 0),
        random()) as place
    from waiting_tasks w
    join room r on r.id = w.id
    join lateral (
        select k.step_id, row_number() over (order by k.step_id) as turn
        from parked k
        where k.rule_id = w.id and k.task_id = w.task_id
        order by k.step_id
        limit greatest(r.room, 0)
    ) k on true
    where w.task_id is not null
        and not exists (select from rules p where p.task_id = w.task_id and p.ended_at is null) -- guard: task not paused
), chosen as (
    select t.step_id
    from turns t
    cross join lateral (select from parked k where k.step_id = t.step_id for update skip locked) k
    where t.place <= t.room -- guard: room
), taken as (
    delete from parked where step_id = any (array(select step_id from chosen)) returning *
)
insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, created_at, published_at,
    publish_count, limit_id)
select k.step_id, k.epoch, k.tenant_id, k.task_id, k.queue, k.kind, k.traceparent, k.created_at, clock_timestamp(), 1,
    k.rule_id
from taken k
cross join lateral ( -- after its rule had gone it may have been claimed
    select s.state, s.lease_until from steps s where s.id = k.step_id and s.epoch = k.epoch offset 0
) s
where s.state = 'ready' or s.state = 'reviewing' and s.lease_until is null
returning step_id, epoch, queue, kind, traceparent, true as published;
