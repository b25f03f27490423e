"""The journal of calls to models."""

from alembic import op

from shared_state.statements import load_migration

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(load_migration("0006_model_calls"))


def downgrade() -> None:
    raise NotImplementedError("schemas are not taken back")
