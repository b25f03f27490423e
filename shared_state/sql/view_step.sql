-- One step with its accepted output and its task's trace context.
select s.*, t.traceparent, o.body as output, o.accepted_at, h.from_step_id as shared_from
from steps s
join tasks t on t.id = s.task_id
left join outputs o on o.step_id = s.id
left join shared_steps h on h.step_id = s.id
where s.id = %(id)s and s.tenant_id = %(tenant)s;
