-- Leases that lapsed, with what the decision about them needs; settling checks again. What somebody is at just now is left
-- for the next pass: who is frozen in the middle of a transaction must not keep others' steps from being recovered.
select s.id as step_id, s.epoch, s.tenant_id, s.task_id, s.key, s.attempt_count, s.rejection_count, s.question_count,
    case s.state when 'reviewing' then 'reviewer' else s.role end as role,
    case s.state when 'reviewing' then s.reviewer else s.agent end as agent,
    s.has_dependents, t.team_digest, t.traceparent, s.worker, s.cancel_requested_at is not null as cancelled,
    extract(epoch from a.started_at)::double precision as began_at
from attempts a
join steps s on s.id = a.step_id
join tasks t on t.id = s.task_id
where a.step_id > '00000000-0000-0000-0000-000000000000' and a.state = 'running' and a.epoch = s.epoch
    and s.lease_until < statement_timestamp() -- guard: lapsed
order by s.lease_until
limit %(limit)s
for no key update of s
    skip locked -- guard: nobody is waited for
;
