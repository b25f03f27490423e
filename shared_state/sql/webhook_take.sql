-- New dead letters that the webhook has still to be told of, the longest due first. They are taken for a while by
-- moving their due time: whoever dies in between has not told, and somebody tells again. What is too old is given up.
with due as (
    select d.id
    from dead_letters d
    where d.webhook_due_at <= clock_timestamp()
    order by d.webhook_due_at
    limit %(limit)s
    for update skip locked
), taken as (
    update dead_letters d
    set webhook_count = d.webhook_count + 1,
        webhook_due_at = case when d.created_at > clock_timestamp() - make_interval(secs => %(patience_seconds)s)
            then clock_timestamp() + make_interval(secs => %(hold_seconds)s) end
    from due
    where d.id = due.id
    returning d.*
)
select d.id, d.tenant_id, d.reason, d.text, d.task_id, d.step_id, coalesce(d.queue, s.queue) as queue, d.created_at,
    d.webhook_count, s.key, s.agent, t.team_name
from taken d
left join steps s on s.id = d.step_id
left join tasks t on t.id = d.task_id
where d.webhook_due_at is not null
order by d.created_at, d.id;
