"""Row-level security: who works as the API's role sees one tenant."""

from alembic import op

from shared_state.statements import load_migration

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(load_migration("0005_tenant_wall"))


def downgrade() -> None:
    raise NotImplementedError("schemas are not taken back")
