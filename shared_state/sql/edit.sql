-- Another input for the step of an open dead letter. What it was is kept, with who changed it and when.
with opened as (
    select l.id, l.tenant_id, s.id as step_id, s.task_id, s.epoch, s.key, s.input
    from dead_letters l
    join steps s on s.id = l.step_id
    where l.id = %(id)s
        and l.state = 'open' -- guard: open
        and s.state = 'dead'
    for no key update of l, s
), kept as (
    insert into dead_letter_edits (id, tenant_id, dead_letter_id, editor, before, after)
    select %(edit_id)s, tenant_id, id, %(actor)s, input, %(input)s::jsonb from opened
), edited as (
    update steps s set input = %(input)s::jsonb from opened o where s.id = o.step_id
), told as (
    insert into events (tenant_id, task_id, step_id, epoch, type, data)
    select tenant_id, task_id, step_id, epoch, 'step.edited', jsonb_build_object('step', key, 'actor', %(actor)s::text)
    from opened
)
select id from opened;
