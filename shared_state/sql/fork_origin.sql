-- The steps of a task as they are at this moment, with the ids of what each needs.
select s.id, s.key, s.role, s.agent, s.state, t.team_digest,
    array(select d.needs_id from dependencies d where d.step_id = s.id order by d.needs_id) as needs
from tasks t
join steps s on s.task_id = t.id
where t.id = %(id)s
    and t.tenant_id = %(tenant)s -- guard: tenant
order by s.id;
