"""Rows of tables that only a dialect has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "rows",
        sa.Column("key", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("dialect", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["projects.id"], name=op.f("fk_rows_project_projects"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_rows")),
        sa.UniqueConstraint("dialect", "kind", "name", name="uq_rows_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rows_subject", "rows", ["subject"])
    op.create_index("ix_rows_project", "rows", ["project"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("rows")
