-- Every row carries its tenant. Times are timestamptz by the database's clock. Payloads are jsonb and capped by the
-- application; bytes of any size are artifacts. What may move from which state to which is contracts/states.py.

create table tenants (
    id text primary key check (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    created_at timestamptz not null default clock_timestamp()
);
insert into tenants (id) values ('default');

create table api_keys (
    id uuid primary key,
    tenant_id text not null references tenants,
    name text not null,
    role text not null check (role in ('viewer', 'operator', 'approver', 'admin')),
    digest bytea not null unique,
    prefix text not null,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz
);

create table teams (
    tenant_id text not null references tenants,
    digest text not null,
    name text not null,
    definition jsonb not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, digest)
);

create table team_heads (
    tenant_id text not null,
    name text not null,
    digest text not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, name),
    foreign key (tenant_id, digest) references teams
);

create table tasks (
    id uuid primary key,
    tenant_id text not null,
    team_name text not null,
    team_digest text not null,
    state text not null check (state in
        ('planning', 'running', 'waiting', 'succeeded', 'failed', 'cancelling', 'cancelled')),
    goal text not null default '',
    input jsonb,
    labels jsonb not null default '{}',
    degraded boolean not null default false,
    error jsonb,
    step_count int not null default 0 check (step_count >= 0),
    step_limit int not null constraint tasks_step_limit check (step_count <= step_limit),
    traceparent text,
    deadline_at timestamptz,
    planned_at timestamptz,
    cancel_requested_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    foreign key (tenant_id, team_digest) references teams (tenant_id, digest),
    check ((state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null))
);
create index tasks_by_tenant on tasks (tenant_id, id desc);
create index tasks_by_deadline on tasks (deadline_at)
    where deadline_at is not null and finished_at is null and cancel_requested_at is null;
create index tasks_by_end on tasks (finished_at) where finished_at is not null;

create table idempotency_keys (
    tenant_id text not null references tenants,
    key text not null check (length(key) between 1 and 255),
    digest text not null,
    -- Deferred: the key is taken first, and only who takes it makes the task.
    task_id uuid not null references tasks on delete cascade deferrable initially deferred,
    created_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, key)
);
create unique index idempotency_keys_by_task on idempotency_keys (task_id);

create table steps (
    id uuid primary key,
    tenant_id text not null,
    task_id uuid not null references tasks on delete cascade,
    key text not null,
    role text not null check (role in ('planner', 'executor')),
    agent text not null,
    reviewer text,
    reviewer_queue text,
    queue text not null,
    input jsonb,
    state text not null check (state in ('blocked', 'ready', 'running', 'reviewing', 'waiting',
        'succeeded', 'failed', 'dead', 'cancelled', 'skipped')),
    optional boolean not null default false,
    rank int not null default 0,
    has_dependents boolean not null default false,
    needs_left int not null default 0 check (needs_left >= 0),
    -- The fencing token: grows by one each time the step becomes ready or reviewing; a message names it, a claim takes it.
    epoch bigint not null default 0,
    attempt_count int not null default 0,
    rejection_count int not null default 0,
    question_count int not null default 0,
    feedback jsonb,
    degraded text,
    due_at timestamptz,
    worker text,
    lease_until timestamptz,
    cancel_requested_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    ready_at timestamptz,
    finished_at timestamptz,
    unique (task_id, key),
    check (state <> 'running' or lease_until is not null),
    check (lease_until is null or state in ('running', 'reviewing')),
    check ((state in ('succeeded', 'failed', 'dead', 'cancelled', 'skipped')) = (finished_at is not null))
);
-- Open steps of a task: whether it can settle, and what a cancel must reach.
create index steps_open on steps (task_id)
    where state in ('blocked', 'ready', 'running', 'reviewing', 'waiting');
create index steps_leased on steps (lease_until) where lease_until is not null;
create index steps_due on steps (due_at) where due_at is not null;

create table dependencies (
    tenant_id text not null,
    task_id uuid not null,
    step_id uuid not null references steps on delete cascade,
    needs_id uuid not null references steps on delete cascade,
    -- The accepted output that satisfies this need. It can only name a row of `outputs`, and only accepting makes one:
    -- what gates or reviewer have not accepted cannot become anyone's input.
    input_epoch bigint,
    primary key (step_id, needs_id),
    check (step_id <> needs_id)
);
create index dependencies_by_need on dependencies (needs_id);

create table attempts (
    step_id uuid not null references steps on delete cascade,
    epoch bigint not null,
    tenant_id text not null,
    task_id uuid not null,
    role text not null check (role in ('planner', 'executor', 'reviewer')),
    agent text not null,
    attempt int not null,
    worker text not null,
    state text not null check (state in
        ('running', 'succeeded', 'failed', 'stale', 'expired', 'cancelled', 'waiting')),
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    error jsonb,
    verdicts jsonb,
    progress jsonb,
    log_tail text,
    code_hash text,
    seconds real,
    primary key (step_id, epoch),
    check ((state = 'running') = (finished_at is null))
);
create unique index attempts_running on attempts (step_id) where state = 'running';

-- Accepted outputs only: at most one a step. What is not accepted is in `proposals` (quarantine), readable by people.
create table outputs (
    step_id uuid primary key references steps on delete cascade,
    epoch bigint not null,
    tenant_id text not null,
    task_id uuid not null,
    body jsonb,
    accepted_at timestamptz not null default clock_timestamp(),
    unique (step_id, epoch),
    foreign key (step_id, epoch) references attempts (step_id, epoch)
);
alter table dependencies add foreign key (needs_id, input_epoch) references outputs (step_id, epoch);

create table proposals (
    step_id uuid not null references steps on delete cascade,
    epoch bigint not null,
    tenant_id text not null,
    task_id uuid not null,
    state text not null check (state in ('pending', 'accepted', 'rejected')),
    body jsonb,
    degraded text,
    created_at timestamptz not null default clock_timestamp(),
    primary key (step_id, epoch),
    foreign key (step_id, epoch) references attempts (step_id, epoch) on delete cascade
);
create unique index proposals_pending on proposals (step_id) where state = 'pending';

-- One row is the queue entry of one ready (or reviewing, unclaimed) step: made with that state, deleted by the claim.
-- published_at is null while it waits for its turn; a row that stays long after publishing is published again.
create table outbox (
    step_id uuid primary key references steps on delete cascade,
    epoch bigint not null,
    tenant_id text not null,
    task_id uuid not null,
    queue text not null,
    kind text not null check (kind in ('plan', 'execute', 'review')),
    traceparent text,
    created_at timestamptz not null default clock_timestamp(),
    published_at timestamptz,
    publish_count int not null default 0
);
create index outbox_waiting on outbox (queue, task_id, step_id) where published_at is null;
create index outbox_published on outbox (queue, published_at) where published_at is not null;

create table questions (
    id uuid primary key,
    tenant_id text not null,
    task_id uuid not null references tasks on delete cascade,
    step_id uuid not null references steps on delete cascade,
    epoch bigint not null,
    text text not null,
    state text not null default 'open' check (state in ('open', 'answered', 'cancelled')),
    answer text,
    asked_at timestamptz not null default clock_timestamp(),
    answered_at timestamptz,
    answered_by text,
    unique (step_id, epoch)
);
create unique index questions_open on questions (step_id) where state = 'open';
create index questions_by_task on questions (task_id);
create index questions_by_tenant on questions (tenant_id, id desc);

create table dead_letters (
    id uuid primary key,
    tenant_id text not null references tenants,
    task_id uuid references tasks on delete cascade,
    step_id uuid references steps on delete cascade,
    epoch bigint,
    reason text not null,
    text text not null,
    queue text,
    raw bytea,
    raw_size_bytes bigint,
    raw_sha256 text,
    headers jsonb,
    state text not null default 'open' check (state in ('open', 'redriven', 'discarded')),
    created_at timestamptz not null default clock_timestamp(),
    closed_at timestamptz,
    closed_by text,
    close_reason text,
    check ((state = 'open') = (closed_at is null)),
    check ((step_id is null) = (raw is not null))
);
create unique index dead_letters_open on dead_letters (step_id) where state = 'open' and step_id is not null;
create index dead_letters_by_task on dead_letters (task_id) where task_id is not null;
create index dead_letters_by_step on dead_letters (step_id) where step_id is not null;
create index dead_letters_by_tenant on dead_letters (tenant_id, id desc);

create table events (
    id bigint generated always as identity,
    -- Readers order by (xid, id) and stop below the oldest transaction in progress, so none can miss a late commit.
    xid xid8 not null default pg_current_xact_id(),
    tenant_id text not null,
    task_id uuid not null references tasks on delete cascade,
    step_id uuid,
    epoch bigint,
    type text not null,
    data jsonb,
    at timestamptz not null default clock_timestamp()
);
create index events_by_task on events (task_id, xid, id);
create index events_by_xid on events (xid, id);

create table artifacts (
    tenant_id text not null references tenants,
    sha256 text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    size_bytes bigint not null,
    media_type text not null,
    location text not null,
    body bytea,
    created_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, sha256),
    check ((location = 'postgres') = (body is not null))
);

create table workers (
    name text primary key,
    host text not null,
    pid int not null,
    queues jsonb not null,
    slots int not null,
    busy int not null default 0,
    state text not null check (state in ('running', 'draining', 'gone')),
    started_at timestamptz not null default clock_timestamp(),
    seen_at timestamptz not null default clock_timestamp()
);
