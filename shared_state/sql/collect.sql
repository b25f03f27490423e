-- Remove these artifacts, unless they were put again meanwhile: a row that a put has changed is looked at anew.
delete from artifacts a
using unnest(%(tenants)s::text[], %(sha256s)s::text[]) as c (tenant_id, sha256)
where a.tenant_id = c.tenant_id and a.sha256 = c.sha256
    and a.location = any (%(locations)s::text[])
    and a.created_at < clock_timestamp() - make_interval(secs => %(days)s * 86400.0) -- guard: put meanwhile
returning a.tenant_id, a.sha256, a.location;
