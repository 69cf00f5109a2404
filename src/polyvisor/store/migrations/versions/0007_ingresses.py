"""Ingresses and their rules."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "ingresses",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_ingresses_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingresses")),
        sa.UniqueConstraint("project", "name", name="uq_ingresses_name"),
    )
    op.create_index("ix_ingresses_created", "ingresses", ["created", "id"], unique=False)
    op.create_index("ix_ingresses_project_created", "ingresses", ["project", "created", "id"], unique=False)
    op.create_table(
        "ingress_rules",
        sa.Column("ingress", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("port", sa.BigInteger(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("pinned", sa.Text(), nullable=True),
        sa.Column("target_port", sa.BigInteger(), nullable=False),
        sa.Column("tls", sa.Boolean(), nullable=False),
        sa.Column("redirect", sa.Boolean(), nullable=False),
        sa.Column("guard_header", sa.Text(), nullable=True),
        sa.Column("guard_value", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["ingress"], ["ingresses.id"], name=op.f("fk_ingress_rules_ingress"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["pinned"], ["instances.id"], name=op.f("fk_ingress_rules_pinned"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("ingress", "number", name=op.f("pk_ingress_rules")),
        sa.UniqueConstraint("port", "site", name="uq_ingress_rules_site"),
    )
    op.create_index("ix_ingress_rules_pinned", "ingress_rules", ["pinned"], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_table("ingress_rules")
    op.drop_table("ingresses")
