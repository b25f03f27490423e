"""The first schema: tenants, teams, tasks, steps, attempts, outputs, outbox, events, dead letters, questions."""

from alembic import op

from shared_state.statements import load_migration

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(load_migration("0001_initial"))


def downgrade() -> None:
    raise NotImplementedError("the first schema is not taken back; drop the database instead")
