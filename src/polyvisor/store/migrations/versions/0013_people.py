"""Users who are disabled, keys that hold from some addresses only, and what the rows of a dialect grant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("users", sa.Column("disabled", sa.Boolean(), nullable=False, server_default=sa.false()))
    for name in ("allow", "deny"):
        op.add_column("api_keys", sa.Column(name, sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "derived_grants",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("origin", "user", "project", "action")),
        sa.ForeignKeyConstraint(["user"], ["users.id"], name=op.f("fk_derived_grants_user"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["project"], ["projects.id"], name=op.f("fk_derived_grants_project"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("origin", "user", "project", "action", name=op.f("pk_derived_grants")),
    )
    op.create_index("ix_derived_grants_user", "derived_grants", ["user"])
    op.create_index("ix_derived_grants_project", "derived_grants", ["project"])


def downgrade() -> None:
    """Take back. Who was disabled goes, and so do keys with a fence: an older version would let them in."""
    op.drop_table("derived_grants")
    bind = op.get_bind()
    bind.execute(sa.text("DELETE FROM api_keys WHERE allow <> '' OR deny <> ''"))
    bind.execute(sa.text("UPDATE users SET password = '' WHERE disabled"))
    bind.execute(sa.text('DELETE FROM api_keys WHERE "user" IN (SELECT id FROM users WHERE disabled)'))
    bind.execute(sa.text('DELETE FROM sessions WHERE "user" IN (SELECT id FROM users WHERE disabled)'))
    for name in ("allow", "deny"):
        op.drop_column("api_keys", name)
    op.drop_column("users", "disabled")
