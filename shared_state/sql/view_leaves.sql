-- The steps whose outputs are the task's result: executors' that no other step needs.
select s.key, s.state, o.step_id is not null as accepted, o.body
from steps s
left join outputs o on o.step_id = s.id
where s.task_id = %(id)s and s.tenant_id = %(tenant)s and s.role = 'executor' and not s.has_dependents
order by s.rank, s.key;
