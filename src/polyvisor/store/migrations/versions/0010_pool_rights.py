"""What projects may do with pools."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "pool_rights",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("quota", sa.BigInteger(), nullable=False),
        sa.Column("writes", sa.Boolean(), nullable=False),
        sa.Column("manages", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_pool_rights_project"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project", "pool", name=op.f("pk_pool_rights")),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("pool_rights")
