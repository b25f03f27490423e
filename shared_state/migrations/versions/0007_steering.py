"""Pauses, limits, the entries they hold back, and who is to drain."""

from alembic import op

from shared_state.statements import load_migration

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(load_migration("0007_steering"))


def downgrade() -> None:
    raise NotImplementedError("schemas are not taken back")
