-- What an agent of a step may read of its task: the accepted outputs of the steps that this one needs, directly or
-- through others, nearest in the plan last. They were accepted before the step began and never change. `artifacts` are
-- the references in an output, wherever they stand.
with recursive behind as (
    select d.needs_id, d.input_epoch
    from dependencies d
    where d.step_id = %(id)s and d.tenant_id = %(tenant)s
    union
    select d.needs_id, d.input_epoch
    from behind b
    join dependencies d on d.step_id = b.needs_id
)
select s.key, s.agent, octet_length(o.body::text) as size_bytes,
    jsonb_path_query_array(o.body, 'strict $.** ? (@.sha256.type() == "string")') as artifacts
from behind b
join steps s on s.id = b.needs_id
join outputs o on o.step_id = b.needs_id and o.epoch = b.input_epoch
order by s.rank, s.key;
