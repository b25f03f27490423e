-- A page of questions, newest first.
select q.*, s.key
from questions q
join steps s on s.id = q.step_id
where q.tenant_id = %(tenant)s
    and (%(before)s::uuid is null or q.id < %(before)s)
    and (%(state)s::text is null or q.state = %(state)s)
    and (%(task)s::uuid is null or q.task_id = %(task)s)
order by q.id desc
limit %(limit)s;
