"""The schema says which releases it serves."""

from alembic import op

from shared_state.statements import load_migration

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(load_migration("0003_releases"))


def downgrade() -> None:
    raise NotImplementedError("schemas are not taken back: what people wrote would be lost")
