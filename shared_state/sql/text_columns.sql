-- Where a reference to an artifact may be: the columns of text and JSON of every table that has tenants, but its own.
select c.table_name, c.column_name
from information_schema.columns c
join information_schema.tables t using (table_schema, table_name)
where c.table_schema = current_schema() and t.table_type = 'BASE TABLE'
    and c.table_name not in ('artifacts', 'api_keys', 'teams')
    and c.column_name not in ('tenant_id', 'team_digest')
    and c.data_type in ('text', 'character varying', 'json', 'jsonb', 'ARRAY')
    and exists (select from information_schema.columns o
        where (o.table_schema, o.table_name, o.column_name) = (c.table_schema, c.table_name, 'tenant_id'))
order by c.table_name, c.ordinal_position;
