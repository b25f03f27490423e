-- Tasks that have not ended, at most `limit` of them.
select state, count(*) as count
from (select state from tasks where finished_at is null limit %(limit)s::int) t
group by state;
