-- Leases that lapsed, with what the decision about them needs; settling checks again. What somebody is at just now is left
-- for the next pass: who is frozen in the middle of a transaction must not keep others' steps from being recovered.
select s.id as step_id, s.epoch, s.tenant_id, s.task_id, s.key, s.attempt_count, s.rejection_count, s.question_count,
    case s.state when 'reviewing' then 'reviewer' else s.role end as role,
    case s.state when 'reviewing' then s.reviewer else s.agent end as agent,
    s.has_dependents, t.team_digest, t.traceparent, s.worker, s.cancel_requested_at is not null as cancelled,
    extract(epoch from a.started_at)::double precision as began_at
from steps s
join tasks t on t.id = s.task_id
join attempts a on a.step_id = s.id and a.epoch = s.epoch
where s.id = any (array(
        select r.step_id from attempts r
        where r.step_id > '00000000-0000-0000-0000-000000000000' and r.state = 'running'))
    and s.lease_until < statement_timestamp() -- guard: lapsed
order by s.lease_until
limit %(limit)s
for no key update of s
    skip locked -- guard: nobody is waited for
;
