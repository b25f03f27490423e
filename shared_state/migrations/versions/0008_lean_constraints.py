"""The constraints of the rows that every step writes, made cheaper."""

from alembic import op

from shared_state.statements import load_migration

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(load_migration("0008_lean_constraints"))


def downgrade() -> None:
    raise NotImplementedError("schemas are not taken back")
