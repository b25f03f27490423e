-- Parked entries whose rule is not in force any more are entries like any other again and wait for their turn. The rules
-- that entries name are few, however many entries there are.
with recursive named as (
    (select rule_id from parked where rule_id > '00000000-0000-0000-0000-000000000000' order by rule_id limit 1)
    union all
    select (select k.rule_id from parked k where k.rule_id > n.rule_id order by k.rule_id limit 1)
    from named n
    where n.rule_id is not null
), freed as (
    select k.step_id
    from named n
    cross join lateral (
        select k.step_id
        from parked k
        where k.rule_id = n.rule_id
        order by k.task_id, k.step_id
        limit %(limit)s
        for update skip locked
    ) k
    where n.rule_id is not null
        and not exists (select from rules r where r.id = n.rule_id and r.ended_at is null offset 0) -- guard: in force
), taken as (
    delete from parked where step_id = any (array(select step_id from freed)) returning *
)
insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, created_at)
select k.step_id, k.epoch, k.tenant_id, k.task_id, k.queue, k.kind, k.traceparent, k.created_at
from taken k
cross join lateral ( -- after its rule had gone it may have been claimed
    select s.state, s.lease_until from steps s where s.id = k.step_id and s.epoch = k.epoch offset 0
) s
where s.state = 'ready' or s.state = 'reviewing' and s.lease_until is null
returning step_id;
