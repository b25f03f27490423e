-- What waits in every queue, by the kind of message that its steps need. The outbox holds what is ready, and nothing else.
select queue, kind, count(*) as depth, count(*) filter (where published_at is not null) as published,
    count(*) filter (where publish_count > 1) as republished,
    extract(epoch from clock_timestamp() - min(created_at))::float8 as oldest_seconds,
    extract(epoch from clock_timestamp() - min(created_at) filter (where published_at is null))::float8
        as unpublished_seconds
from outbox
group by queue, kind;
