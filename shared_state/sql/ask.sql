-- Wait for a person: the lease is dropped, nothing is held, the task shows that somebody is needed.
with given as (
    select *
    from jsonb_to_recordset(%(items)s::jsonb) as g (
        id uuid, epoch bigint, question_id uuid, text text, log_tail text, code_hash text, seconds real)
), locked as (
    select g.*
    from steps s
    join given g on g.id = s.id
        and g.epoch = s.epoch -- guard: epoch
    where s.state = 'running' -- guard: running
        and s.cancel_requested_at is null -- guard: not cancelled
    order by s.id
    for no key update of s -- guard: row lock
), waiting as (
    update steps s
    set state = 'waiting', lease_until = null, worker = null, question_count = s.question_count + 1
    from locked l
    where s.id = l.id
    returning s.id, s.epoch, s.tenant_id, s.task_id, s.key
), ended as (
    update attempts a
    set state = 'waiting', finished_at = clock_timestamp(), log_tail = g.log_tail, code_hash = g.code_hash,
        seconds = g.seconds
    from waiting s
    join locked g on g.id = s.id
    where a.step_id = s.id and a.epoch = s.epoch
), asked as (
    insert into questions (id, tenant_id, task_id, step_id, epoch, text)
    select g.question_id, s.tenant_id, s.task_id, s.id, s.epoch, g.text
    from waiting s
    join locked g on g.id = s.id
), shown as (
    update tasks t
    set state = 'waiting'
    where t.id in (select task_id from waiting)
        and t.state in ('planning', 'running') -- guard: live
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select s.tenant_id, s.task_id, s.id, s.epoch, 'step.waiting',
        jsonb_build_object('step', s.key, 'question', g.question_id, 'text', left(g.text, 500))
    from waiting s
    join locked g on g.id = s.id
)
select id, epoch from waiting;
