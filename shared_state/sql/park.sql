-- Entries that may not begin leave the outbox, each with the rule that holds it. What somebody else is at is left to them.
with given as (
    select * from unnest(%(ids)s::uuid[], %(rules)s::uuid[]) as g (id, rule_id)
), locked as (
    select g.*
    from given g
    cross join lateral (select from outbox o where o.step_id = g.id for update skip locked) o
), taken as (
    delete from outbox where step_id = any (array(select id from locked)) returning *
)
insert into parked (step_id, epoch, tenant_id, task_id, queue, kind, traceparent, created_at, rule_id)
select t.step_id, t.epoch, t.tenant_id, t.task_id, t.queue, t.kind, t.traceparent, t.created_at, l.rule_id
from taken t
join locked l on l.id = t.step_id
on conflict (step_id) do update -- left of an earlier epoch, whose rule is gone
    set epoch = excluded.epoch, queue = excluded.queue, kind = excluded.kind, created_at = excluded.created_at,
        rule_id = excluded.rule_id, parked_at = excluded.parked_at
returning step_id;
