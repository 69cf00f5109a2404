"""How a snapshot's memory is compressed, and what has become of that."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("snapshots", sa.Column("compression", sa.Text(), nullable=False, server_default=""))
    op.add_column("snapshots", sa.Column("packing", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("snapshots", sa.Column("packed", sa.Text(), nullable=False, server_default=""))
    is_packing = sa.column("packing", sa.Boolean()).is_(sa.true())
    op.create_index(
        "ix_snapshots_packing", "snapshots", ["created", "id"], sqlite_where=is_packing, postgresql_where=is_packing
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_snapshots_packing", "snapshots")
    for column in ("packed", "packing", "compression"):
        op.drop_column("snapshots", column)
