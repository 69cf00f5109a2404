"""Tasks: what is done to instances when its time has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("next_run", sa.BigInteger(), nullable=True),
        sa.Column("runs", sa.Boolean(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["projects.id"], name=op.f("fk_tasks_project_projects"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["instance"], ["instances.id"], name=op.f("fk_tasks_instance_instances"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("project", "name", name="uq_tasks_name"),
    )
    op.create_index("ix_tasks_next_run", "tasks", ["next_run"])
    op.create_index("ix_tasks_instance", "tasks", ["instance"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("tasks")
