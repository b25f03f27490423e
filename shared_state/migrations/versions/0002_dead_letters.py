"""Dead letters: notes, the history of edits, and what the webhook still has to tell."""

from alembic import op

from shared_state.statements import load_migration

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(load_migration("0002_dead_letters"))


def downgrade() -> None:
    raise NotImplementedError("schemas are not taken back: what people wrote would be lost")
