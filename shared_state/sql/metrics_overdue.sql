-- For how long the loops owe something: a lease that lapsed and nobody recovered, a backoff that is over and nobody ended.
select
    (select extract(epoch from clock_timestamp() - lease_until)::float8 from steps
        where lease_until < statement_timestamp() order by lease_until limit 1) as lapsed_seconds,
    (select extract(epoch from clock_timestamp() - due_at)::float8 from steps
        where due_at < statement_timestamp() and finished_at is null and lease_until is null
        order by due_at limit 1) as due_seconds;
