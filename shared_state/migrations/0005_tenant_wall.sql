-- Row-level security: a process that works as the role `orchestrator_api` sees and changes the rows of one tenant only,
-- the one its transaction has named (shared_state/tenant_wall.py); of none, while it has named none. Everybody else
-- (workers, loops, commands; whoever owns the tables) is not bound: their batches span tenants. The role itself is no
-- part of the schema, for not every database lets us make one.
--
-- And what the quota of open tasks counts by: small, for what has ended is not in it.
create index if not exists tasks_open on tasks (tenant_id) where finished_at is null;

do $$
declare
    walled record;
begin
    for walled in
        select c.table_name as name, c.column_name as tenant
        from information_schema.columns c
        join information_schema.tables t using (table_schema, table_name)
        where c.table_schema = current_schema() and t.table_type = 'BASE TABLE'
            and (c.column_name = 'tenant_id' or (c.table_name = 'tenants' and c.column_name = 'id'))
        order by 1
    loop
        execute format('alter table %%I enable row level security', walled.name);
        execute format('drop policy if exists tenant_wall on %%I', walled.name);
        execute format($policy$
            create policy tenant_wall on %%I using (
                %%I = current_setting('orchestrator.tenant', true) or current_user <> 'orchestrator_api')
            $policy$, walled.name, walled.tenant);
    end loop;
end $$;
