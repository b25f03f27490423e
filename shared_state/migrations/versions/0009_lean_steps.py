"""Fewer references to steps, and fewer indexes that change with every move of one."""

from alembic import op

from shared_state.statements import load_migration

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(load_migration("0009_lean_steps"))


def downgrade() -> None:
    raise NotImplementedError("schemas are not taken back")
