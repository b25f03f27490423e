-- A page of a task's steps, those that need nothing first.
select s.*, h.from_step_id as shared_from
from steps s
left join shared_steps h on h.step_id = s.id
where s.task_id = %(id)s and s.tenant_id = %(tenant)s
    and (%(rank)s::int is null or (rank, key) > (%(rank)s, %(key)s::text))
    and (%(states)s::text[] is null or state = any (%(states)s))
order by rank, key
limit %(limit)s;
