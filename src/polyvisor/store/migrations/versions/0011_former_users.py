"""Names of users that were removed, and when: what was signed for them before is not believed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "former_users",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("removed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_former_users")),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("former_users")
