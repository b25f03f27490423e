-- Worker processes that have not said good-bye. One is silent when it has not reported for three times its interval.
select queues, slots, busy,
    case when seen_at < clock_timestamp() - interval '15 s' then 'silent' else state end as state
from workers
where state <> 'gone';
