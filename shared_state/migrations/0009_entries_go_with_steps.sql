-- Queue entries and attempts are written for every step, in the statement that has its row in hand, so that a reference
-- to it says nothing new: but checking it locks the row, which is a write of its own. All they need it for is to go
-- when the step goes. Measured in docs/performance.md.
alter table outbox drop constraint if exists outbox_step_id_fkey;
alter table attempts drop constraint if exists attempts_step_id_fkey;
create or replace function delete_rows_of_steps() returns trigger
    language plpgsql as $$
begin
    delete from outbox o using gone g where o.step_id = g.id;
    delete from attempts a using gone g where a.step_id = g.id;
    return null;
end $$;
create or replace trigger rows_go_with_their_step
    after delete on steps referencing old table as gone
    for each statement execute function delete_rows_of_steps();
