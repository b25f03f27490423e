-- First what takes long: it lets everybody read, and what follows is short.
create index if not exists steps_unfinished on steps (task_id) where finished_at is null;

-- Queue entries and attempts are written for every step, in the statement that has its row in hand, so that a reference
-- to it says nothing new: but checking it locks the row, which is a write of its own. All they need it for is to go
-- when the step goes. Measured in docs/performance.md.
alter table outbox drop constraint if exists outbox_step_id_fkey;
alter table attempts drop constraint if exists attempts_step_id_fkey;
create or replace function delete_rows_of_steps() returns trigger
    language plpgsql as $$
begin
    delete from outbox where step_id = any (array(select id from gone));
    delete from attempts where step_id = any (array(select id from gone));
    return null;
end $$;
create or replace trigger rows_go_with_their_step
    after delete on steps referencing old table as gone
    for each statement execute function delete_rows_of_steps();

-- A move of a step made entries in each of its indexes anew, because two of them had its state or its lease in them.
-- Without, a claim or a heartbeat is a write of the row alone, where its page has room (a heap-only tuple). Whether a
-- step is open is also said by its end, which changes once; leases are found by the attempts that hold them.
drop index if exists steps_open;
drop index if exists steps_leased;
alter table steps set (fillfactor = 50);
