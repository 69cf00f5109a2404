"""What dialects keep with things: other names for them, and what they must give back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "aliases",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("dialect", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.UniqueConstraint("project", "dialect", "kind", "alias", name="uq_aliases_alias"),
    )
    op.create_index("ix_aliases_subject", "aliases", ["subject"], unique=False)
    op.create_table(
        "remainders",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("dialect", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "dialect", name=op.f("pk_remainders")),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("remainders")
    op.drop_table("aliases")
