"""SSH keys of users."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "ssh_keys",
        sa.Column("number", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["projects.id"], name=op.f("fk_ssh_keys_project_projects"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user"], ["users.id"], name=op.f("fk_ssh_keys_user_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_ssh_keys")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_ssh_keys_fingerprint", "ssh_keys", ["fingerprint"])
    op.create_index("ix_ssh_keys_user", "ssh_keys", ["user"])
    op.create_index("ix_ssh_keys_project", "ssh_keys", ["project"])
    op.create_index("ix_aliases_alias", "aliases", ["alias"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_aliases_alias", "aliases")
    op.drop_table("ssh_keys")
