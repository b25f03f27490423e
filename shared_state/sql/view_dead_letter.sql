-- One dead letter with what a person needs to mend it: the step's input, or the raw bytes.
select d.id, d.state, d.reason, d.text, d.task_id, d.step_id, d.epoch, coalesce(d.queue, s.queue) as queue,
    d.raw_size_bytes, d.raw_sha256, d.created_at, d.closed_at, d.closed_by, d.close_reason,
    s.key, s.agent, t.team_name, s.input, d.raw, d.headers
from dead_letters d
left join steps s on s.id = d.step_id
left join tasks t on t.id = d.task_id
where d.id = %(id)s and d.tenant_id = %(tenant)s;
