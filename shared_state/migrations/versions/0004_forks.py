"""Forks, and the steps they share with their origin."""

from alembic import op

from shared_state.statements import load_migration

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(load_migration("0004_forks"))


def downgrade() -> None:
    raise NotImplementedError("schemas are not taken back: what people wrote would be lost")
