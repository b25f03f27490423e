-- One version of a team: the one that new tasks get, or the one whose digest begins as given.
select t.name, t.digest, t.applied_at, t.definition
from teams t
left join team_heads h using (tenant_id, digest)
where t.tenant_id = %(tenant)s and t.name = %(team)s
    and case when %(digest)s::text is null then h.digest is not null else starts_with(t.digest, %(digest)s) end
order by t.applied_at desc
limit 1;
