-- The journal of calls to models: one row for each call that was answered or failed, written before anything follows
-- from it. Requests and answers are artifacts, whole; a later attempt of the step goes on from the last usable one.
create table model_calls (
    step_id uuid not null references steps on delete cascade,
    epoch bigint not null,
    -- Of the attempt's calls, from 1.
    ordinal int not null check (ordinal > 0),
    tenant_id text not null,
    task_id uuid not null,
    agent text not null,
    -- Digest of how the conversation began: model, settings, tools, prompt. Another beginning is another conversation.
    conversation text not null,
    model text not null,
    settings jsonb not null,
    ending text not null,
    -- Whether the answer is part of the conversation, used or answered with what was wrong about it.
    kept boolean not null,
    told boolean not null,
    tool_calls int not null default 0,
    request_sha256 text not null,
    response_sha256 text,
    input_tokens bigint not null default 0,
    output_tokens bigint not null default 0,
    seconds real not null,
    ended_at timestamptz not null default clock_timestamp(),
    primary key (step_id, epoch, ordinal),
    foreign key (step_id, epoch) references attempts (step_id, epoch) on delete cascade,
    check (response_sha256 is not null or not kept)
);
create index model_calls_by_task on model_calls (task_id);

alter table model_calls enable row level security;
create policy tenant_wall on model_calls using (
    tenant_id = current_setting('orchestrator.tenant', true) or current_user <> 'orchestrator_api');
