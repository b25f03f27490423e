-- Dead letters that fit every filter given, newest first, without raw bytes. Bytes that never were a message have no
-- step and no task.
select d.id, d.state, d.reason, d.text, d.task_id, d.step_id, d.epoch, coalesce(d.queue, s.queue) as queue,
    d.raw_size_bytes, d.raw_sha256, d.created_at, d.closed_at, d.closed_by, d.close_reason,
    s.key, s.agent, s.state as step_state, t.team_name, t.state as task_state
from dead_letters d
left join steps s on s.id = d.step_id
left join tasks t on t.id = d.task_id
where d.tenant_id = %(tenant)s
    and (%(before)s::uuid is null or d.id < %(before)s)
    and (%(state)s::text is null or d.state = %(state)s)
    and (%(reason)s::text is null or d.reason = %(reason)s or split_part(d.reason, '.', 1) = %(reason)s)
    and (%(team)s::text is null or t.team_name = %(team)s)
    and (%(agent)s::text is null or s.agent = %(agent)s)
    and (%(queue)s::text is null or coalesce(d.queue, s.queue) = %(queue)s)
    and (%(task)s::uuid is null or d.task_id = %(task)s)
    and (%(step)s::uuid is null or d.step_id = %(step)s)
    and (%(since)s::timestamptz is null or d.created_at >= %(since)s)
    and (%(until)s::timestamptz is null or d.created_at < %(until)s)
    and (%(text)s::text is null or strpos(lower(d.text), lower(%(text)s)) > 0)
order by d.id desc
limit %(limit)s
