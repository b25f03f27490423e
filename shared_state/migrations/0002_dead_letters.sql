-- Dead letters as a place to work: notes, the history of edits, and the mark of what the webhook still has to tell.
-- Only additions, so processes of the release before go on working.

create table dead_letter_notes (
    id uuid primary key,
    tenant_id text not null references tenants,
    dead_letter_id uuid not null references dead_letters on delete cascade,
    author text not null,
    text text not null,
    written_at timestamptz not null default clock_timestamp()
);
create index dead_letter_notes_by_letter on dead_letter_notes (dead_letter_id);

-- What a person changed before putting it back: a step's input, or a message written anew (which had no `before`).
create table dead_letter_edits (
    id uuid primary key,
    tenant_id text not null references tenants,
    dead_letter_id uuid not null references dead_letters on delete cascade,
    editor text not null,
    before jsonb,
    after jsonb,
    edited_at timestamptz not null default clock_timestamp()
);
create index dead_letter_edits_by_letter on dead_letter_edits (dead_letter_id);

-- webhook_due_at is null for what has been told, was given up, or is older than this schema.
alter table dead_letters
    add column webhook_due_at timestamptz,
    add column webhook_count int not null default 0,
    add column webhook_sent_at timestamptz,
    add column webhook_error text;
alter table dead_letters alter column webhook_due_at set default clock_timestamp();
create index dead_letters_to_tell on dead_letters (webhook_due_at) where webhook_due_at is not null;
create index dead_letters_by_reason on dead_letters (tenant_id, reason, id desc);
