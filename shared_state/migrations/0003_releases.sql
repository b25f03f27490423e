-- The schema says whom it serves: `serves_from` names the schema that the oldest release which may still work here was
-- made for. A migration that only adds leaves it alone; one that takes something away raises it to the schema of the
-- first release that does without what is gone:  update alembic_version set serves_from = '0004';
alter table alembic_version add column serves_from text not null default '0001';
