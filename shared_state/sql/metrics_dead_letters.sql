-- Open dead letters by reason. Those of steps have an index; bytes that never became a step are found by their reasons.
with open_letters as (
    select reason, created_at
    from dead_letters
    where state = 'open' and step_id is not null
    union all
    select l.reason, l.created_at
    from tenants t
    cross join unnest(%(message_reasons)s::text[]) as r (reason)
    join dead_letters l on l.tenant_id = t.id and l.reason = r.reason
    where l.state = 'open' and l.step_id is null
)
select reason, count(*) as count, extract(epoch from clock_timestamp() - min(created_at))::float8 as oldest_seconds,
    extract(epoch from clock_timestamp() - max(created_at))::float8 as newest_seconds
from open_letters
group by reason;
