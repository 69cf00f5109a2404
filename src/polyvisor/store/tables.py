"""The schema, once, for both databases.

Records that are read whole are JSON text (`spec`, `intent`, `observed`); what a query filters or sums by is a
plain column beside it. JSON is kept as TEXT and not JSONB: PostgreSQL's JSONB refuses `\\u0000`, which a
guest's environment or an observation's text may hold, and nothing queries inside it.

A unique constraint is named `uq_<table>_<field>`, after the last of its columns: that is the field which an
`Exists` names. Times are microseconds since 1970 UTC.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

metadata = MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s"},
)

# SQLite gives numbers of its own only to a column that is INTEGER to the letter.
Serial = BigInteger().with_variant(Integer(), "sqlite")

meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

projects = Table(
    "projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("max_instances", BigInteger, nullable=False),
    Column("max_vcpus", BigInteger, nullable=False),
    Column("max_memory", BigInteger, nullable=False),
    Column("max_disk", BigInteger, nullable=False),
    UniqueConstraint("name", name="uq_projects_name"),
)

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("password", Text, nullable=False),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("operator", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("operator", Boolean, nullable=False),
    Column("expires", BigInteger),
    UniqueConstraint("digest", name="uq_api_keys_digest"),
)

# `number` is the key because only so does SQLite promise (AUTOINCREMENT) never to give a number twice.
instances = Table(
    "instances",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("spec", Text, nullable=False),
    Column("intent", Text, nullable=False),
    Column("observed", Text, nullable=False),
    Column("address", Text),
    Column("ip", Text),
    Column("image", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("expires", BigInteger),
    Column("vcpus", BigInteger, nullable=False),
    Column("memory", BigInteger, nullable=False),
    Column("disk", BigInteger, nullable=False),
    UniqueConstraint("id", name="uq_instances_id"),
    UniqueConstraint("ip", name="uq_instances_ip"),
    UniqueConstraint("project", "name", name="uq_instances_name"),
    Index("ix_instances_created", "created", "id"),
    Index("ix_instances_project_created", "project", "created", "id"),
    Index("ix_instances_image", "image"),
    sqlite_autoincrement=True,
)

# A label is found by a hash of key and value: PostgreSQL cannot index a text of more than some 2,700 bytes.
labels = Table(
    "labels",
    metadata,
    Column("mark", Text, nullable=False),
    Column("instance", Text, ForeignKey("instances.id", ondelete="CASCADE"), nullable=False),
    PrimaryKeyConstraint("mark", "instance"),
    Index("ix_labels_instance", "instance"),
)

volumes = Table(
    "volumes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("project", "name", name="uq_volumes_name"),
    Index("ix_volumes_created", "created", "id"),
    Index("ix_volumes_project_created", "project", "created", "id"),
)

# A row is a claim; `seq` keeps the order of attaching, which is the order in which a guest sees its disks.
attachments = Table(
    "attachments",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("instance", Text, ForeignKey("instances.id", ondelete="CASCADE"), nullable=False),
    Column("volume", Text, ForeignKey("volumes.id"), nullable=False),
    Column("path", Text, nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    UniqueConstraint("instance", "volume", name="uq_attachments_volume"),
    Index("ix_attachments_volume", "volume"),
    sqlite_autoincrement=True,
)

# No foreign key to instances: the operation that deleted one must still be told of afterwards.
operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("subject", Text, nullable=False),
    Column("progress", Text, nullable=False),
    Column("journal", Text, nullable=False),
    Column("fault", Text, nullable=False),
    Column("fault_kind", Text, nullable=False),
    Column("finished", BigInteger),
    Index("ix_operations_created", "created", "id"),
    Index("ix_operations_instance_created", "instance", "created", "id"),
    Index("ix_operations_project_created", "project", "created", "id"),
    Index("ix_operations_finished", "finished"),
)
# Spelt out rather than a parameter: PostgreSQL uses the index below only where it sees that very condition.
is_open = operations.c.outcome == literal_column("'open'", Text)
# The law "one open operation for an instance", kept by the database.
Index(
    "uq_operations_instance",
    operations.c.instance,
    unique=True,
    sqlite_where=is_open,
    postgresql_where=is_open,
)

images = Table(
    "images",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("record", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)

# Who may use an image; project "" stands for everybody, hence no foreign key to projects.
image_grants = Table(
    "image_grants",
    metadata,
    Column("project", Text, nullable=False),
    Column("digest", Text, ForeignKey("images.digest", ondelete="CASCADE"), nullable=False),
    PrimaryKeyConstraint("project", "digest"),
    Index("ix_image_grants_digest", "digest"),
)

# What a project calls it: a name means one image at a time and moves to the newest that claims it.
image_names = Table(
    "image_names",
    metadata,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("project", "name"),
    ForeignKeyConstraint(["project", "digest"], ["image_grants.project", "image_grants.digest"], ondelete="CASCADE"),
    Index("ix_image_names_digest", "digest"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("data", Text, nullable=False),
    Index("ix_events_project", "project", "seq"),
    sqlite_autoincrement=True,
)

receipts = Table(
    "receipts",
    metadata,
    Column("project", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("made", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "key"),
    Index("ix_receipts_at", "at"),
)
