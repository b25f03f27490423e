-- Hold the steps whose count of needs is about to be taken anew: a commit that frees one of them waits, or is counted.
select id from steps where task_id = any (%(ids)s::uuid[]) and state in ('blocked', 'skipped') order by id for no key update;
