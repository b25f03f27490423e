-- A page of a task's steps, those that need nothing first.
select * from steps
where task_id = %(id)s and tenant_id = %(tenant)s
    and (%(rank)s::int is null or (rank, key) > (%(rank)s, %(key)s::text))
    and (%(states)s::text[] is null or state = any (%(states)s))
order by rank, key
limit %(limit)s;
