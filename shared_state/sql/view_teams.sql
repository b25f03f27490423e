-- A page of teams by name, each in the version that new tasks get.
select h.name, h.digest, h.applied_at, t.definition
from team_heads h
join teams t using (tenant_id, digest)
where h.tenant_id = %(tenant)s and (%(after)s::text is null or h.name > %(after)s)
order by h.name
limit %(limit)s;
