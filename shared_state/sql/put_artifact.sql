-- The same bytes are stored once. Putting them again is noted, at most once an hour: the collector goes by it.
insert into artifacts (tenant_id, sha256, size_bytes, media_type, location, body)
values (%(tenant)s, %(sha256)s, %(size)s, %(media_type)s, %(location)s, %(body)s)
on conflict (tenant_id, sha256) do update set created_at = excluded.created_at
where artifacts.created_at < clock_timestamp() - interval '1 hour';
