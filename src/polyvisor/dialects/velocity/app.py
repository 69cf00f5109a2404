"""The application: every route of this dialect."""

from __future__ import annotations

from starlette.types import ASGIApp

from polyvisor.dialects.velocity import routes_machines, routes_media, routes_users, routes_vms
from polyvisor.dialects.velocity.table import Row, Table
from polyvisor.engine import Engine
from polyvisor.model.units import Seconds

_MODULES = (routes_users, routes_media, routes_vms, routes_machines)
ROWS: dict[tuple[str, str], Row] = {key: row for module in _MODULES for key, row in module.routes.rows.items()}


def is_ours(path: str) -> bool:
    """Whether a path belongs to this dialect."""
    return path.startswith(("/u/", "/v/", "/m/"))


def make_app(engine: Engine, lifetime: Seconds) -> ASGIApp:
    """The dialect over `engine`, at its absolute paths. Authkeys hold for `lifetime` seconds."""
    return Table(ROWS, engine, lifetime)
