"""A tree of projects, users with ids, what is granted to them, their keys and sessions, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from polyvisor.model.ids import mint

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. The oldest project becomes the root, and the others stand below it."""
    _projects()
    _users()
    _keys()
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user"], ["users.id"], name=op.f("fk_sessions_user"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("digest", name="uq_sessions_digest"),
    )
    op.create_index("ix_sessions_user", "sessions", ["user"])
    op.create_index("ix_sessions_expires", "sessions", ["expires"])
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("who", "source", "action", "project", "subject", "outcome", "detail")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_subject", "audit", ["subject", "seq"])
    op.create_index("ix_audit_who", "audit", ["who", "seq"])


def _projects() -> None:
    with op.batch_alter_table("projects") as table:
        table.add_column(sa.Column("max_snapshots", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("parent", sa.Text(), nullable=True))
        table.add_column(sa.Column("number", sa.BigInteger(), nullable=False, server_default="0"))
    bind = op.get_bind()
    found = [row[0] for row in bind.execute(sa.text("SELECT id FROM projects ORDER BY created, id"))]
    for number, id in enumerate(found):
        values = {"id": id, "number": number, "parent": found[0] if number else None}
        bind.execute(sa.text("UPDATE projects SET number = :number, parent = :parent WHERE id = :id"), values)
    with op.batch_alter_table("projects") as table:
        table.drop_constraint("uq_projects_name", type_="unique")
        table.create_unique_constraint("uq_projects_name", ["parent", "name"])
        table.create_unique_constraint("uq_projects_number", ["number"])
        table.create_foreign_key(op.f("fk_projects_parent"), "projects", ["parent"], ["id"])
        table.alter_column("max_snapshots", existing_type=sa.BigInteger(), server_default=None)
        table.alter_column("number", existing_type=sa.BigInteger(), server_default=None)
    _count("projects", len(found))


def _users() -> None:
    bind = op.get_bind()
    rows = bind.execute(sa.text("SELECT name, password, project, operator, created FROM users ORDER BY created, name"))
    found = [dict(row._mapping) for row in rows]
    op.drop_table("users")
    made = op.create_table(
        "users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("operator", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_users_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name="uq_users_name"),
        sa.UniqueConstraint("number", name="uq_users_number"),
    )
    op.create_index("ix_users_project", "users", ["project"])
    for number, user in enumerate(found):
        operator = bool(user["operator"])
        bind.execute(sa.insert(made).values({**user, "operator": operator, "id": mint(), "number": number}))
    _count("users", len(found))
    op.create_table(
        "grants",
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["user"], ["users.id"], name=op.f("fk_grants_user"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_grants_project"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user", "project", "action", name=op.f("pk_grants")),
    )
    op.create_index("ix_grants_project", "grants", ["project"])


def _keys() -> None:
    with op.batch_alter_table("api_keys") as table:
        table.add_column(sa.Column("user", sa.Text(), nullable=True))
        table.add_column(sa.Column("scopes", sa.Text(), nullable=True))
        table.add_column(sa.Column("used", sa.BigInteger(), nullable=True))
        table.drop_constraint(op.f("fk_api_keys_project"), type_="foreignkey")
        table.create_foreign_key(op.f("fk_api_keys_project"), "projects", ["project"], ["id"], ondelete="CASCADE")
        table.create_foreign_key(op.f("fk_api_keys_user"), "users", ["user"], ["id"], ondelete="CASCADE")
    op.create_index("ix_api_keys_user", "api_keys", ["user"])


def _count(table: str, given: int) -> None:
    """The next number of that table."""
    values = {"key": f"next_{table}", "value": str(given)}
    op.get_bind().execute(sa.text("INSERT INTO meta (key, value) VALUES (:key, :value)"), values)


def downgrade() -> None:
    """Take back. Who was not an operator had nothing to do in an older version, and goes."""
    op.drop_table("audit")
    op.drop_table("sessions")
    op.drop_table("grants")
    with op.batch_alter_table("api_keys") as table:
        table.drop_index("ix_api_keys_user")
        for column in ("user", "scopes", "used"):
            table.drop_column(column)
    bind = op.get_bind()
    kept = "SELECT name, password, project, operator, created FROM users"
    found = [dict(row._mapping) for row in bind.execute(sa.text(kept))]
    op.drop_table("users")
    made = op.create_table(
        "users",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("operator", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_users_project")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_users")),
    )
    for user in found:
        bind.execute(sa.insert(made).values({**user, "operator": bool(user["operator"])}))
    with op.batch_alter_table("projects") as table:
        table.drop_constraint("uq_projects_number", type_="unique")
        table.drop_constraint("uq_projects_name", type_="unique")
        table.drop_constraint(op.f("fk_projects_parent"), type_="foreignkey")
        table.create_unique_constraint("uq_projects_name", ["name"])
        for column in ("max_snapshots", "parent", "number"):
            table.drop_column(column)
    bind.execute(sa.text("DELETE FROM meta WHERE key IN ('next_projects', 'next_users')"))
