-- Open dead letters by reason. Those of steps have an index of their own, and the range makes it the one that is used;
-- bytes that never became a step are found by their reasons, one tenant after the other.
with open_letters as (
    select reason, created_at
    from dead_letters
    where state = 'open' and step_id >= '00000000-0000-0000-0000-000000000000'
    union all
    select l.reason, l.created_at
    from tenants t
    cross join unnest(%(message_reasons)s::text[]) as r (reason)
    cross join lateral (
        select l.reason, l.created_at
        from dead_letters l
        where l.tenant_id = t.id and l.reason = r.reason and l.state = 'open' and l.step_id is null
        offset 0
    ) l
)
select reason, count(*) as count, extract(epoch from clock_timestamp() - min(created_at))::float8 as oldest_seconds,
    extract(epoch from clock_timestamp() - max(created_at))::float8 as newest_seconds
from open_letters
group by reason;
