-- What has begun and what has failed by queue between two places in the log of events; of very many the first only.
with moves as (
    select e.type, e.step_id
    from events e
    where e.xid >= %(since)s::text::xid8 and e.xid < %(until)s::text::xid8 and e.tenant_id = %(tenant)s
        and e.type in ('step.started', 'step.review_started', 'step.retried', 'step.rejected', 'step.expired', 'step.dead')
    order by e.xid, e.id
    limit %(limit)s
)
select case m.type when 'step.review_started' then coalesce(s.reviewer_queue, s.queue) else s.queue end as queue,
    count(*) filter (where m.type in ('step.started', 'step.review_started')) as begun,
    count(*) filter (where m.type not in ('step.started', 'step.review_started')) as failed
from moves m
join steps s on s.id = m.step_id
group by 1;
