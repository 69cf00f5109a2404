"""Media: volumes of raw bytes, in pools, on a bus."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("volumes", sa.Column("kind", sa.Text(), nullable=False, server_default="data"))
    op.add_column("volumes", sa.Column("read_only", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("volumes", sa.Column("pool", sa.Text(), nullable=False, server_default=""))
    op.add_column("attachments", sa.Column("bus", sa.Text(), nullable=False, server_default="virtio"))


def downgrade() -> None:
    """Take back."""
    op.drop_column("attachments", "bus")
    for name in ("pool", "read_only", "kind"):
        op.drop_column("volumes", name)
