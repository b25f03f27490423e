-- Steering: rules that hold steps back (pauses and limits), the queue entries they hold, and who is to drain.
-- Only additions, so processes of the release before go on working; they keep to none of it.

-- A pause (concurrency 0) of a task, a team or one agent of a team; or the limit of an agent: how many of its steps may
-- run at once, as the version of its team that was applied last says. What has ended is kept for a while.
create table rules (
    id uuid primary key default gen_random_uuid(),
    tenant_id text not null references tenants,
    task_id uuid references tasks on delete cascade,
    team_name text,
    agent text,
    concurrency int not null check (concurrency >= 0),
    reason text not null default '',
    set_by text,
    set_at timestamptz not null default clock_timestamp(),
    ended_by text,
    ended_at timestamptz,
    check ((task_id is null) <> (team_name is null)),
    check (agent is null or team_name is not null),
    check (concurrency = 0 or agent is not null)
);
-- Also what a claim looks at to know that nobody has paused or limited anything.
create unique index rules_in_force on rules (tenant_id, team_name, agent, task_id, (concurrency = 0)) nulls not distinct
    where ended_at is null;
create index rules_of_tasks on rules (task_id) where task_id is not null;
create index rules_ended on rules (ended_at) where ended_at is not null;

-- The queue entries of steps that are ready and may not begin. Out of the outbox nobody sends for them, and they are in
-- nobody's way; the relay puts them back.
create table parked (
    step_id uuid primary key references steps on delete cascade,
    epoch bigint not null,
    tenant_id text not null,
    task_id uuid not null,
    queue text not null,
    kind text not null check (kind in ('plan', 'execute', 'review')),
    traceparent text,
    created_at timestamptz not null,
    -- No reference: a rule may go at any moment, and the relay finds those whose rule is gone.
    rule_id uuid not null,
    parked_at timestamptz not null default clock_timestamp()
);
create index parked_by_rule on parked (rule_id, task_id, step_id);
create index parked_of_task on parked (task_id);

-- The limit of whose places this entry has one: given by the relay, kept until the step is claimed.
alter table outbox add column limit_id uuid;
create index outbox_placed on outbox (limit_id) where limit_id is not null;

alter table workers
    add column drain_requested_at timestamptz,
    add column drain_requested_by text;

do $$
declare
    walled text;
begin
    foreach walled in array array['rules', 'parked'] loop
        execute format('alter table %%I enable row level security', walled);
        execute format($policy$
            create policy tenant_wall on %%I using (
                tenant_id = current_setting('orchestrator.tenant', true) or current_user <> 'orchestrator_api')
            $policy$, walled);
    end loop;
end $$;
