-- What must always hold. Each query returns (id, text) of what breaks it: none, in a healthy database, at any time.
-- Run in one repeatable-read transaction, so that all see the same moment. Blocks start with `-- name: kind: meaning`;
-- kind safety must hold always, kind liveness once faults are over (a step in a backlog is no violation).
-- `verify.py` runs them over everything, or over the rows of some tasks: then `tasks`, `steps` and `outputs` are those.

-- I01: safety: a step has an accepted output if and only if it succeeded
select s.id, s.state from steps s left join outputs o on o.step_id = s.id where (s.state = 'succeeded') <> (o.step_id is not null);

-- I02: safety: an accepted output comes from an attempt that succeeded, and no later attempt of its step had begun
select o.step_id, 'epoch ' || o.epoch from outputs o left join attempts a on a.step_id = o.step_id and a.epoch = o.epoch
where a.state is distinct from 'succeeded'
    or exists (select 1 from attempts b where b.step_id = o.step_id and b.epoch > o.epoch and b.role <> 'reviewer');

-- I03: safety: a running attempt belongs to a leased step at the step's own epoch, and a leased step has one
select s.id, s.state || ' epoch ' || s.epoch from steps s left join attempts a on a.step_id = s.id and a.state = 'running'
where (s.lease_until is not null) <> (a.step_id is not null) or a.epoch <> s.epoch;

-- I04: safety: no attempt is ahead of its step's epoch
select a.step_id, 'epoch ' || a.epoch from attempts a join steps s on s.id = a.step_id where a.epoch > s.epoch;

-- I07: safety: nothing runs or ran before what it needs was accepted (or was optional and given up)
select s.id, s.state || ' before ' || n.key from dependencies d join steps s on s.id = d.step_id join steps n on n.id = d.needs_id
where s.state in ('ready', 'running', 'reviewing', 'waiting', 'succeeded') and d.input_epoch is null
    and not (n.optional and (n.state in ('dead', 'failed')
        or exists (select 1 from dead_letters l where l.step_id = n.id)));

-- I08: safety: a blocked step counts exactly the needs that are not settled
select s.id, 'counts ' || s.needs_left from steps s where s.state = 'blocked' and s.needs_left <> (
    select count(*) from dependencies d join steps n on n.id = d.needs_id
    where d.step_id = s.id and n.state <> 'succeeded' and not (n.optional and n.state in ('dead', 'failed')));

-- I09: safety: a step that waits for nothing is not blocked
select s.id, s.key from steps s where s.state = 'blocked' and s.needs_left = 0;

-- I10: safety: every step that could be claimed has its queue entry at its own epoch, unless it is due later
select s.id, s.state from steps s left join outbox o on o.step_id = s.id and o.epoch = s.epoch
    left join parked k on k.step_id = s.id and k.epoch = s.epoch
where (s.state = 'ready' or s.state = 'reviewing' and s.lease_until is null) and s.due_at is null
    and o.step_id is null and k.step_id is null;

-- I11: safety: a queue entry is of a step that could be claimed, at its epoch
select o.step_id, s.state || ' epoch ' || o.epoch from outbox o join steps s on s.id = o.step_id
where o.epoch <> s.epoch or not (s.state = 'ready' or s.state = 'reviewing' and s.lease_until is null)
union all select k.step_id, 'parked, ' || s.state || ' epoch ' || k.epoch from parked k join steps s on s.id = k.step_id
where (k.epoch <> s.epoch or not (s.state = 'ready' or s.state = 'reviewing' and s.lease_until is null))
    and exists (select from rules r where r.id = k.rule_id and r.ended_at is null);

-- I16: safety: nothing is accepted after its task was cancelled
select o.step_id, 'accepted after cancel' from tasks t join steps s on s.task_id = t.id join outputs o on o.step_id = s.id
where o.accepted_at > t.cancel_requested_at;

-- I17: safety: no step is created after its task was cancelled
select s.id, 'created after cancel' from steps s join tasks t on t.id = s.task_id where s.created_at > t.cancel_requested_at;

-- I18: safety: a dead step has exactly one open dead letter, and no other step has one
select s.id, s.state from steps s left join dead_letters l on l.step_id = s.id and l.state = 'open' where (s.state = 'dead') <> (l.id is not null);

-- I21: safety: a task counts its steps right
select t.id, 'counts ' || t.step_count from tasks t where t.step_count <> (select count(*) from steps s where s.task_id = t.id);

-- I22: safety: a task that ended has no open step
select t.id, t.state || ' with ' || s.key || ' ' || s.state from tasks t join steps s on s.task_id = t.id
where t.finished_at is not null and s.state in ('blocked', 'ready', 'running', 'reviewing', 'waiting');

-- I23: safety: a task that has not ended has an open step
select t.id, t.state from tasks t where t.finished_at is null and not exists (select 1 from steps s
    where s.task_id = t.id and s.state in ('blocked', 'ready', 'running', 'reviewing', 'waiting'));

-- I24: safety: rows of a task carry its tenant, all of them, and needs stay inside one task
select s.id, 'step tenant' from steps s join tasks t on t.id = s.task_id where s.tenant_id <> t.tenant_id
union all select d.step_id, 'needs across tasks' from steps a join dependencies d on d.step_id = a.id join steps b on b.id = d.needs_id
    where a.task_id <> b.task_id or (d.task_id, d.tenant_id) <> (a.task_id, a.tenant_id)
union all select a.step_id, 'attempt tenant' from steps s join attempts a on a.step_id = s.id
    where (a.task_id, a.tenant_id) <> (s.task_id, s.tenant_id)
union all select o.step_id, 'output tenant' from steps s join outputs o on o.step_id = s.id
    where (o.task_id, o.tenant_id) <> (s.task_id, s.tenant_id)
union all select p.step_id, 'proposal tenant' from steps s join proposals p on p.step_id = s.id
    where (p.task_id, p.tenant_id) <> (s.task_id, s.tenant_id)
union all select e.step_id, 'queue entry tenant' from steps s join outbox e on e.step_id = s.id
    where (e.task_id, e.tenant_id) <> (s.task_id, s.tenant_id)
union all select k.step_id, 'parked entry tenant' from steps s join parked k on k.step_id = s.id
    where (k.task_id, k.tenant_id) <> (s.task_id, s.tenant_id)
union all select r.id, 'rule tenant' from tasks t join rules r on r.task_id = t.id where r.tenant_id <> t.tenant_id
union all select q.id, 'question tenant' from tasks t join questions q on q.task_id = t.id where q.tenant_id <> t.tenant_id
union all select t.id, 'event tenant' from tasks t join events e on e.task_id = t.id where e.tenant_id <> t.tenant_id
union all select t.id, 'idempotency key tenant' from tasks t join idempotency_keys k on k.task_id = t.id where k.tenant_id <> t.tenant_id
union all select l.id, 'dead letter tenant' from tasks t join dead_letters l on l.task_id = t.id where l.tenant_id <> t.tenant_id
union all select n.id, 'note tenant' from dead_letters l join dead_letter_notes n on n.dead_letter_id = l.id where n.tenant_id <> l.tenant_id
union all select e.id, 'edit tenant' from dead_letters l join dead_letter_edits e on e.dead_letter_id = l.id where e.tenant_id <> l.tenant_id
union all select f.task_id, 'fork tenant' from tasks t join forks f on f.task_id = t.id where f.tenant_id <> t.tenant_id
union all select h.step_id, 'shared step tenant' from steps s join shared_steps h on h.step_id = s.id
    where (h.task_id, h.tenant_id) <> (s.task_id, s.tenant_id)
union all select c.step_id, 'model call tenant' from steps s join model_calls c on c.step_id = s.id
    where (c.task_id, c.tenant_id) <> (s.task_id, s.tenant_id);

-- I25: safety: needs go from lower to higher rank, so no cycle is possible
select d.step_id, 'rank' from dependencies d join steps s on s.id = d.step_id join steps n on n.id = d.needs_id where n.rank >= s.rank;

-- I26: safety: a pending proposal belongs to a step under review, and a step under review has one
select s.id, s.state from steps s left join proposals p on p.step_id = s.id and p.state = 'pending'
where (s.state = 'reviewing') <> (p.step_id is not null);

-- I32: safety: a step counts no more attempts than were begun
select s.id, 'counts ' || s.attempt_count from steps s where s.attempt_count > (select count(*) from attempts a where a.step_id = s.id);

-- I33: safety: a waiting step has an open question, and only a waiting step has one
select s.id, s.state from steps s left join questions q on q.step_id = s.id and q.state = 'open' where (s.state = 'waiting') <> (q.id is not null);

-- I34: safety: a skipped step needs something that is dead, failed or skipped
select s.id, s.key from steps s where s.state = 'skipped' and not exists (select 1 from dependencies d join steps n on n.id = d.needs_id
    where d.step_id = s.id and n.state in ('dead', 'failed', 'skipped'));

-- I38: safety: a shared step belongs to a fork, has its output, and nothing of it ran there
select s.id, s.state from steps s join shared_steps h on h.step_id = s.id
where s.state <> 'succeeded' or not exists (select 1 from forks f where f.task_id = s.task_id)
    or exists (select 1 from attempts a where a.step_id = s.id and a.started_at >= s.created_at);

-- I36: safety: the step of a redriven dead letter has moved on, and that of a discarded one has failed for good
select l.id, l.state || ' but ' || s.state from steps s join dead_letters l on l.step_id = s.id
where l.state = 'redriven' and s.epoch <= l.epoch + 1 or l.state = 'discarded' and (s.state <> 'failed' or s.epoch <> l.epoch + 1);

-- I37: safety: bytes that were written anew as a message are no open dead letter any more
select l.id, l.state from dead_letters l join dead_letter_edits e on e.dead_letter_id = l.id where l.step_id is null and l.state <> 'redriven';

-- I41: safety: what the journal says of a call to a model can be read
select c.step_id, c.epoch || '.' || c.ordinal from steps s join model_calls c on c.step_id = s.id
where not exists (select 1 from artifacts a where a.tenant_id = c.tenant_id and a.sha256 = c.request_sha256)
    or c.response_sha256 is not null and not exists (
        select 1 from artifacts a where a.tenant_id = c.tenant_id and a.sha256 = c.response_sha256);

-- I39: safety: of a limited agent no more steps have begun, or have a place, than may since the limit was set
select r.id, r.team_name || '/' || r.agent || ' ' || count(*) || ' of ' || r.concurrency from rules r join (
    select t.tenant_id, t.team_name, case s.state when 'reviewing' then s.reviewer else s.agent end as agent, a.started_at as at
        from steps s join tasks t on t.id = s.task_id join attempts a on a.step_id = s.id and a.epoch = s.epoch
        where s.lease_until is not null
    union all select l.tenant_id, l.team_name, l.agent, o.published_at from outbox o join rules l on l.id = o.limit_id
    ) b on b.tenant_id = r.tenant_id and b.team_name = r.team_name and b.agent = r.agent
where r.concurrency > 0 and r.ended_at is null and (b.at is null or b.at > r.set_at) group by r.id having count(*) > r.concurrency;

-- I40: liveness: an entry whose rule is gone is released
select k.step_id, 'parked since ' || k.parked_at from parked k left join rules r on r.id = k.rule_id
where (r.id is null or r.ended_at is not null) and coalesce(r.ended_at, k.parked_at) < clock_timestamp() - interval '10 seconds';

-- I27: liveness: a lease that lapsed is recovered within the target
select s.id, 'lapsed ' || s.lease_until from steps s where s.lease_until < clock_timestamp() - interval '10 seconds';

-- I28: liveness: a queue entry does not stay unpublished while its queue has nothing out
select o.step_id, 'waiting since ' || o.created_at from outbox o where o.published_at is null and o.created_at < clock_timestamp() - interval '10 seconds'
    and not exists (select 1 from outbox p where p.queue = o.queue and p.published_at is not null);

-- I29: liveness: a step whose backoff is over is queued
select s.id, 'due ' || s.due_at from steps s where s.due_at < clock_timestamp() - interval '10 seconds' and s.lease_until is null;

-- I35: liveness: a task past its deadline is stopped
select t.id, 'deadline ' || t.deadline_at from tasks t where t.deadline_at < clock_timestamp() - interval '10 seconds'
    and t.finished_at is null and t.cancel_requested_at is null;
