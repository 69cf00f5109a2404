"""What Alembic runs: our metadata over the connection that `upgrade` hands in."""

from __future__ import annotations

from alembic import context

from polyvisor.store.tables import metadata

# SQLite cannot alter a column in place; "batch" makes Alembic copy the table there.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
