-- For how long the loops owe something: a lease that lapsed and nobody recovered, a backoff that is over and nobody ended.
select
    (select extract(epoch from clock_timestamp() - min(s.lease_until))::float8 from attempts a
        cross join lateral (select s.lease_until from steps s where s.id = a.step_id offset 0) s
        where a.state = 'running' and s.lease_until < statement_timestamp()) as lapsed_seconds,
    (select extract(epoch from clock_timestamp() - due_at)::float8 from steps
        where due_at < statement_timestamp() and state in ('ready', 'reviewing') and lease_until is null
        order by due_at limit 1) as due_seconds;
