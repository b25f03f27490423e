"""Alembic's entry: runs the revisions on the connection that `shared_state.migrate` hands over."""

from alembic import context

from shared_state.crash_points import crash_point

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, transaction_per_migration=True, on_version_apply=lambda **_: crash_point("C27")
)
with context.begin_transaction():
    context.run_migrations()
