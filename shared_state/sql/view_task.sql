-- One task with its steps counted by state.
select t.*, coalesce(c.counts, '{}') as step_counts
from tasks t
left join lateral (
    select jsonb_object_agg(state, n) as counts
    from (select state, count(*) as n from steps where task_id = t.id group by state) s
) c on true
where t.id = %(id)s and t.tenant_id = %(tenant)s;
