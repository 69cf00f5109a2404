"""Snapshots and their schedules."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "snapshots",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_name", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("scheduled", sa.Boolean(), nullable=False),
        sa.Column("transient", sa.Boolean(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_snapshots_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
        sa.UniqueConstraint("project", "name", name="uq_snapshots_name"),
    )
    op.create_index("ix_snapshots_created", "snapshots", ["created", "id"], unique=False)
    op.create_index("ix_snapshots_project_created", "snapshots", ["project", "created", "id"], unique=False)
    op.create_index("ix_snapshots_source_created", "snapshots", ["source", "created", "id"], unique=False)
    op.create_index("ix_snapshots_image", "snapshots", ["image"], unique=False)
    op.create_table(
        "schedules",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("next_run", sa.BigInteger(), nullable=False),
        sa.Column("waits", sa.Boolean(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name=op.f("fk_schedules_instance"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("instance", name=op.f("pk_schedules")),
    )
    op.create_index("ix_schedules_next_run", "schedules", ["next_run"], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_table("schedules")
    op.drop_table("snapshots")
