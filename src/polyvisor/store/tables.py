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
    false,
    literal_column,
    true,
)

metadata = MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s"},
)

# SQLite gives numbers of its own only to a column that is INTEGER to the letter.
Serial = BigInteger().with_variant(Integer(), "sqlite")

meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

# A tree: `parent` NULL is its root. Numbers are given out by `meta`, and never twice.
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
    Column("max_snapshots", BigInteger, nullable=False),
    Column("parent", Text, ForeignKey("projects.id")),
    Column("number", BigInteger, nullable=False),
    UniqueConstraint("parent", "name", name="uq_projects_name"),
    UniqueConstraint("number", name="uq_projects_number"),
)

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("password", Text, nullable=False),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("operator", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("disabled", Boolean, nullable=False),
    UniqueConstraint("name", name="uq_users_name"),
    UniqueConstraint("number", name="uq_users_number"),
    Index("ix_users_project", "project"),
)

# What was signed in such a name before is not believed.
former_users = Table(
    "former_users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("removed", BigInteger, nullable=False),
)

grants = Table(
    "grants",
    metadata,
    Column("user", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("action", Text, nullable=False),
    PrimaryKeyConstraint("user", "project", "action"),
    Index("ix_grants_project", "project"),
)

# What the rows of a dialect say that users may do.
derived_grants = Table(
    "derived_grants",
    metadata,
    Column("origin", Text, nullable=False),
    Column("user", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("action", Text, nullable=False),
    PrimaryKeyConstraint("origin", "user", "project", "action"),
    Index("ix_derived_grants_user", "user"),
    Index("ix_derived_grants_project", "project"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("operator", Boolean, nullable=False),
    Column("expires", BigInteger),
    Column("user", Text, ForeignKey("users.id", ondelete="CASCADE")),
    Column("scopes", Text),
    Column("used", BigInteger),
    Column("allow", Text, nullable=False),
    Column("deny", Text, nullable=False),
    UniqueConstraint("digest", name="uq_api_keys_digest"),
    Index("ix_api_keys_user", "user"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("digest", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    UniqueConstraint("digest", name="uq_sessions_digest"),
    Index("ix_sessions_user", "user"),
    Index("ix_sessions_expires", "expires"),
)

# A quota of 0 is none.
pool_rights = Table(
    "pool_rights",
    metadata,
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("pool", Text, nullable=False),
    Column("quota", BigInteger, nullable=False),
    Column("writes", Boolean, nullable=False),
    Column("manages", Boolean, nullable=False),
    PrimaryKeyConstraint("project", "pool"),
)

# Rows are only ever added. What they tell of may be gone, so they refer to nothing.
audit = Table(
    "audit",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_audit_at", "at"),
    Index("ix_audit_subject", "subject", "seq"),
    Index("ix_audit_who", "who", "seq"),
    sqlite_autoincrement=True,
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
    Column("spare", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("id", name="uq_instances_id"),
    UniqueConstraint("ip", name="uq_instances_ip"),
    UniqueConstraint("project", "name", name="uq_instances_name"),
    Index("ix_instances_created", "created", "id"),
    Index("ix_instances_project_created", "project", "created", "id"),
    Index("ix_instances_image", "image"),
    sqlite_autoincrement=True,
)

# Asked for every second, and there are few or none. Spelt `IS` so that both databases see the index's own condition.
is_spare = instances.c.spare.is_(true())
Index("ix_instances_spare", instances.c.created, instances.c.id, sqlite_where=is_spare, postgresql_where=is_spare)

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
    Column("kind", Text, nullable=False, server_default="data"),
    Column("read_only", Boolean, nullable=False, server_default=false()),
    Column("pool", Text, nullable=False, server_default=""),
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
    Column("bus", Text, nullable=False, server_default="virtio"),
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

# `source` is no foreign key: a snapshot outlives the instance it was taken of.
snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_name", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("image", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("host", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("scheduled", Boolean, nullable=False),
    Column("transient", Boolean, nullable=False),
    Column("template", Text, nullable=False),
    Column("mounts", Text, nullable=False, server_default="[]"),
    Column("compression", Text, nullable=False, server_default=""),
    Column("packing", Boolean, nullable=False, server_default=false()),
    Column("packed", Text, nullable=False, server_default=""),
    UniqueConstraint("project", "name", name="uq_snapshots_name"),
    Index("ix_snapshots_created", "created", "id"),
    Index("ix_snapshots_project_created", "project", "created", "id"),
    Index("ix_snapshots_source_created", "source", "created", "id"),
    Index("ix_snapshots_image", "image"),
)

# Asked for every second as well: those whose memory is being compressed.
is_packing = snapshots.c.packing.is_(true())
Index("ix_snapshots_packing", snapshots.c.created, snapshots.c.id, sqlite_where=is_packing, postgresql_where=is_packing)

# `waits`: the last run's operation is not known to be over.
schedules = Table(
    "schedules",
    metadata,
    Column("instance", Text, ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True),
    Column("next_run", BigInteger, nullable=False),
    Column("waits", Boolean, nullable=False),
    Column("record", Text, nullable=False),
    Index("ix_schedules_next_run", "next_run"),
)

# `runs`: the last run is not known to be over.
tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("instance", Text, ForeignKey("instances.id", ondelete="CASCADE"), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("next_run", BigInteger),
    Column("runs", Boolean, nullable=False),
    Column("record", Text, nullable=False),
    UniqueConstraint("project", "name", name="uq_tasks_name"),
    Index("ix_tasks_next_run", "next_run"),
    Index("ix_tasks_instance", "instance"),
)

ingresses = Table(
    "ingresses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("project", "name", name="uq_ingresses_name"),
    Index("ix_ingresses_created", "created", "id"),
    Index("ix_ingresses_project_created", "project", "created", "id"),
)

# `pinned`: an ingress outlives the instances that it leads to; of a later one of the same name it knows by name.
ingress_rules = Table(
    "ingress_rules",
    metadata,
    Column("ingress", Text, ForeignKey("ingresses.id", ondelete="CASCADE"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("port", BigInteger, nullable=False),
    Column("site", Text, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("instance", Text, nullable=False),
    Column("pinned", Text, ForeignKey("instances.id", ondelete="SET NULL")),
    Column("target_port", BigInteger, nullable=False),
    Column("tls", Boolean, nullable=False),
    Column("redirect", Boolean, nullable=False),
    Column("guard_header", Text),
    Column("guard_value", Text),
    PrimaryKeyConstraint("ingress", "number"),
    UniqueConstraint("port", "site", name="uq_ingress_rules_site"),
    Index("ix_ingress_rules_pinned", "pinned"),
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

# No foreign keys: `subject` is a thing of any kind, and what forgets that forgets these.
aliases = Table(
    "aliases",
    metadata,
    Column("project", Text, nullable=False),
    Column("dialect", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("subject", Text, nullable=False),
    UniqueConstraint("project", "dialect", "kind", "alias", name="uq_aliases_alias"),
    Index("ix_aliases_subject", "subject"),
    Index("ix_aliases_alias", "alias"),
)

remainders = Table(
    "remainders",
    metadata,
    Column("subject", Text, nullable=False),
    Column("dialect", Text, nullable=False),
    Column("data", Text, nullable=False),
    PrimaryKeyConstraint("subject", "dialect"),
)

ssh_keys = Table(
    "ssh_keys",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("user", Text, ForeignKey("users.id", ondelete="CASCADE")),
    Column("fingerprint", Text, nullable=False),
    Column("record", Text, nullable=False),
    Index("ix_ssh_keys_fingerprint", "fingerprint"),
    Index("ix_ssh_keys_user", "user"),
    Index("ix_ssh_keys_project", "project"),
    sqlite_autoincrement=True,
)

vaults = Table(
    "vaults",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("record", Text, nullable=False),
    UniqueConstraint("id", name="uq_vaults_id"),
    UniqueConstraint("project", "name", name="uq_vaults_name"),
)

vault_credentials = Table(
    "vault_credentials",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("vault", Text, ForeignKey("vaults.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("record", Text, nullable=False),
    UniqueConstraint("id", name="uq_vault_credentials_id"),
    UniqueConstraint("vault", "name", name="uq_vault_credentials_name"),
)

vault_services = Table(
    "vault_services",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("vault", Text, ForeignKey("vaults.id", ondelete="CASCADE"), nullable=False),
    Column("host", Text, nullable=False),
    Column("record", Text, nullable=False),
    UniqueConstraint("id", name="uq_vault_services_id"),
    UniqueConstraint("vault", "host", name="uq_vault_services_host"),
)

vault_requests = Table(
    "vault_requests",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("vault", Text, ForeignKey("vaults.id", ondelete="CASCADE"), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("host", Text, nullable=False),
    Column("status", BigInteger, nullable=False),
    Column("credential", Text, nullable=False),
    Index("ix_vault_requests_vault", "vault", "number"),
)

# What only a dialect has. `subject` is no foreign key, as above. A key is never given twice, hence AUTOINCREMENT.
rows = Table(
    "rows",
    metadata,
    Column("key", Serial, primary_key=True, autoincrement=True),
    Column("dialect", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("subject", Text, nullable=False),
    Column("data", Text, nullable=False),
    UniqueConstraint("dialect", "kind", "name", name="uq_rows_name"),
    Index("ix_rows_subject", "subject"),
    Index("ix_rows_project", "project"),
    sqlite_autoincrement=True,
)
