"""Alembic's part: loaded only by a start that has something to upgrade, since loading it takes long."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from polyvisor.model.faults import Unsupported


def run(connection: Connection) -> None:
    """Upgrade over an open transaction."""
    script = ScriptDirectory.from_config(config())
    present = _present(connection)
    if present == script.get_current_head():
        return
    if present is not None and present not in {revision.revision for revision in script.walk_revisions()}:
        raise Unsupported("the records were written by a newer version of polyvisor")
    here = config()
    here.attributes["connection"] = connection
    command.upgrade(here, "head")


def config() -> Config:
    """Alembic's settings, without a file of its own."""
    here = Config()
    here.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    here.set_main_option("path_separator", "os")
    return here


def _present(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
