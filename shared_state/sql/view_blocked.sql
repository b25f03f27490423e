-- The steps that need one step, directly or through others: what its death holds up. Nearest first.
with recursive blocked as (
    select d.step_id from dependencies d where d.needs_id = %(id)s
    union
    select d.step_id from dependencies d join blocked b on d.needs_id = b.step_id
)
select s.id, s.key, s.agent, s.state
from blocked b
join steps s on s.id = b.step_id
order by s.rank, s.key
limit %(limit)s;
