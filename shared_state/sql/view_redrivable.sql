-- Open dead letters that a redrive can put back: of steps, whose task was not cancelled.
select d.id
from dead_letters d
join steps s on s.id = d.step_id
join tasks t on t.id = d.task_id
where d.tenant_id = %(tenant)s and d.state = 'open' and t.state not in ('cancelling', 'cancelled')
    and (%(reason)s::text is null or d.reason = %(reason)s or split_part(d.reason, '.', 1) = %(reason)s)
    and (%(team)s::text is null or t.team_name = %(team)s)
    and (%(ids)s::uuid[] is null or d.id = any (%(ids)s))
order by d.id
limit %(limit)s;
