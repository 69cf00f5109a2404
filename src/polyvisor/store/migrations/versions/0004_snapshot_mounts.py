"""The volumes that a snapshot's memory knows of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("snapshots", sa.Column("mounts", sa.Text(), nullable=False, server_default="[]"))


def downgrade() -> None:
    """Take back."""
    op.drop_column("snapshots", "mounts")
