"""Vaults."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _number() -> sa.Column[int]:
    return sa.Column("number", _SERIAL, autoincrement=True, nullable=False)


def _inside(table: str, name: str) -> None:
    """A table of what is in vaults, each with a name of its own there."""
    op.create_table(
        table,
        _number(),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("vault", sa.Text(), nullable=False),
        sa.Column(name, sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["vault"], ["vaults.id"], name=op.f(f"fk_{table}_vault_vaults"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number", name=op.f(f"pk_{table}")),
        sa.UniqueConstraint("id", name=f"uq_{table}_id"),
        sa.UniqueConstraint("vault", name, name=f"uq_{table}_{name}"),
    )


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "vaults",
        _number(),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["projects.id"], name=op.f("fk_vaults_project_projects"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_vaults")),
        sa.UniqueConstraint("id", name="uq_vaults_id"),
        sa.UniqueConstraint("project", "name", name="uq_vaults_name"),
    )
    _inside("vault_credentials", "name")
    _inside("vault_services", "host")
    op.create_table(
        "vault_requests",
        _number(),
        sa.Column("vault", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["vault"], ["vaults.id"], name=op.f("fk_vault_requests_vault_vaults"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_vault_requests")),
    )
    op.create_index("ix_vault_requests_vault", "vault_requests", ["vault", "number"])


def downgrade() -> None:
    """Take back."""
    for table in ("vault_requests", "vault_services", "vault_credentials", "vaults"):
        op.drop_table(table)
