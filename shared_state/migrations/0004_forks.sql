-- Forks: tasks that began as the copy of another, and the steps of theirs whose outputs were taken over.
-- Tables of their own and no new columns: releases that know nothing of forks go on reading the others as they are.

create table forks (
    task_id uuid primary key references tasks on delete cascade,
    tenant_id text not null,
    -- What it was forked from. No references: the origin may be pruned first, and the fork keeps its story.
    from_task_id uuid not null,
    from_step_id uuid not null,
    from_step_key text not null,
    actor text not null,
    edited boolean not null,
    forked_at timestamptz not null default clock_timestamp()
);

-- A shared step never ran here: its output and the attempts that made it are those of `from_step_id`, where it ran.
create table shared_steps (
    step_id uuid primary key references steps on delete cascade,
    tenant_id text not null,
    task_id uuid not null,
    from_task_id uuid not null,
    from_step_id uuid not null
);
