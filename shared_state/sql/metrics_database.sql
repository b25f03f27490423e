-- How full Postgres is: connections of everybody, and the oldest transaction of this database that we may see.
select
    (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections,
    (select setting::int from pg_settings where name = 'max_connections') as connections_limit,
    (select extract(epoch from clock_timestamp() - min(xact_start))::float8 from pg_stat_activity
        where datname = current_database() and backend_type = 'client backend') as transaction_seconds,
    pg_database_size(current_database()) as size_bytes;
