-- What guards the rows that every step writes, made cheaper; every rule of before still holds. Postgres reads a table's
-- checks anew for every statement that writes to it, as text: a list of states of ten words takes longer to read than a
-- row to write, so the lists are behind a call. References that follow from others go. Measured in docs/performance.md.

create or replace function is_lawful_task(state text, step_count int, finished_at timestamptz) returns boolean
    language plpgsql immutable as $$
begin
    return state in ('planning', 'running', 'waiting', 'succeeded', 'failed', 'cancelling', 'cancelled')
        and step_count >= 0
        and (state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null);
end $$;

create or replace function is_lawful_step(
    role text, state text, needs_left int, lease_until timestamptz, finished_at timestamptz) returns boolean
    language plpgsql immutable as $$
begin
    return role in ('planner', 'executor')
        and state in ('blocked', 'ready', 'running', 'reviewing', 'waiting',
            'succeeded', 'failed', 'dead', 'cancelled', 'skipped')
        and needs_left >= 0
        and (state <> 'running' or lease_until is not null)
        and (lease_until is null or state in ('running', 'reviewing'))
        and (state in ('succeeded', 'failed', 'dead', 'cancelled', 'skipped')) = (finished_at is not null);
end $$;

create or replace function is_lawful_attempt(role text, state text, finished_at timestamptz) returns boolean
    language plpgsql immutable as $$
begin
    return role in ('planner', 'executor', 'reviewer')
        and state in ('running', 'succeeded', 'failed', 'stale', 'expired', 'cancelled', 'waiting')
        and (state = 'running') = (finished_at is null);
end $$;

create or replace function is_lawful_entry(kind text) returns boolean
    language plpgsql immutable as $$
begin
    return kind in ('plan', 'execute', 'review');
end $$;

create or replace function is_lawful_proposal(state text) returns boolean
    language plpgsql immutable as $$
begin
    return state in ('pending', 'accepted', 'rejected');
end $$;

-- Whoever may write a row must be able to have it checked, also where functions are nobody's by default.
grant execute on function
    is_lawful_task, is_lawful_step, is_lawful_attempt, is_lawful_entry, is_lawful_proposal to public;

-- Not valid: that the rows there are hold to it is known from the checks of before, and a look at each would keep
-- everybody waiting.
alter table tasks
    drop constraint if exists tasks_state_check,
    drop constraint if exists tasks_step_count_check,
    drop constraint if exists tasks_check,
    drop constraint if exists tasks_lawful,
    add constraint tasks_lawful check (is_lawful_task(state, step_count, finished_at)) not valid;
alter table steps
    drop constraint if exists steps_role_check,
    drop constraint if exists steps_state_check,
    drop constraint if exists steps_needs_left_check,
    drop constraint if exists steps_check,
    drop constraint if exists steps_check1,
    drop constraint if exists steps_check2,
    drop constraint if exists steps_lawful,
    add constraint steps_lawful check (is_lawful_step(role, state, needs_left, lease_until, finished_at)) not valid;
alter table attempts
    drop constraint if exists attempts_role_check,
    drop constraint if exists attempts_state_check,
    drop constraint if exists attempts_check,
    drop constraint if exists attempts_lawful,
    add constraint attempts_lawful check (is_lawful_attempt(role, state, finished_at)) not valid;
alter table outbox
    drop constraint if exists outbox_kind_check,
    drop constraint if exists outbox_lawful,
    add constraint outbox_lawful check (is_lawful_entry(kind)) not valid;
alter table proposals
    drop constraint if exists proposals_state_check,
    drop constraint if exists proposals_lawful,
    add constraint proposals_lawful check (is_lawful_proposal(state)) not valid;

-- An output and a proposal are of an attempt, and an attempt is of a step: they go with it.
alter table outputs
    drop constraint if exists outputs_step_id_fkey,
    drop constraint if exists outputs_step_id_epoch_fkey,
    add constraint outputs_step_id_epoch_fkey
        foreign key (step_id, epoch) references attempts (step_id, epoch) on delete cascade not valid;
alter table proposals drop constraint if exists proposals_step_id_fkey;

-- Events are a third of all rows. They only ever need their task when it goes: then they go with it.
alter table events drop constraint if exists events_task_id_fkey;
create or replace function delete_events_of_tasks() returns trigger
    language plpgsql as $$
begin
    delete from events e using gone g where e.task_id = g.id;
    return null;
end $$;
create or replace trigger events_go_with_their_task
    after delete on tasks referencing old table as gone
    for each statement execute function delete_events_of_tasks();
