"""Spare instances: running copies of templates that nobody has asked for yet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("instances", sa.Column("spare", sa.Boolean(), nullable=False, server_default=sa.false()))
    is_spare = sa.column("spare", sa.Boolean()).is_(sa.true())
    op.create_index(
        "ix_instances_spare", "instances", ["created", "id"], sqlite_where=is_spare, postgresql_where=is_spare
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_instances_spare", "instances")
    op.drop_column("instances", "spare")
