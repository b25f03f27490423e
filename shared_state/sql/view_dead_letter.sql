-- One dead letter with what a person needs to mend it: the step's input and feedback, or the raw bytes; its task.
select d.id, d.state, d.reason, d.text, d.task_id, d.step_id, d.epoch, coalesce(d.queue, s.queue) as queue,
    d.raw_size_bytes, d.raw_sha256, d.created_at, d.closed_at, d.closed_by, d.close_reason,
    d.raw, d.headers, d.webhook_due_at, d.webhook_count, d.webhook_sent_at, d.webhook_error,
    s.key, s.agent, s.role, s.state as step_state, s.input, s.feedback,
    t.team_name, t.state as task_state, t.team_digest, t.goal, t.error as task_error, t.finished_at as task_finished_at,
    t.traceparent,
    case when s.role = 'planner' then 'plan'
        when exists (select 1 from attempts a
            where a.step_id = d.step_id and a.epoch = d.epoch and a.role = 'reviewer') then 'review'
        else 'execute' end as kind
from dead_letters d
left join steps s on s.id = d.step_id
left join tasks t on t.id = d.task_id
where d.id = %(id)s and d.tenant_id = %(tenant)s;
