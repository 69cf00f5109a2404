"""The application: every route of this dialect, and its own word for what has none."""

from __future__ import annotations

from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from polyvisor.dialects.hypeman import (
    cp,
    describe,
    errors,
    exec,
    routes_builders,
    routes_builds,
    routes_copies,
    routes_guests,
    routes_images,
    routes_ingresses,
    routes_instances,
    routes_pushes,
    routes_registry,
    routes_snapshots,
    routes_system,
    routes_volumes,
    waiting,
)
from polyvisor.dialects.hypeman.sockets import socket_routes
from polyvisor.dialects.hypeman.table import Route, paths_of
from polyvisor.engine import Engine

_MODULES = (
    routes_system, routes_instances, waiting, routes_guests, routes_copies, routes_snapshots, routes_images,
    routes_volumes, routes_ingresses, routes_pushes, routes_builds,
    routes_builders, describe,
)  # fmt: skip
ROWS: tuple[Route, ...] = tuple(row for module in _MODULES for row in module.routes.rows)
describe.describe_rows(ROWS)
_SEGMENTS = frozenset(
    {"instances", "images", "volumes", "snapshots", "ingresses", "devices", "builds", "builders", "pushes"}
    | {"resources", "capabilities", "health", "spec.yaml", "spec.json", "v2"}
)


def is_ours(path: str) -> bool:
    """Whether a path belongs to this dialect."""
    return path.split("/", 2)[1:2] != [] and path.split("/", 2)[1] in _SEGMENTS


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    await errors.nowhere()(scope, receive, send)


def make_app(engine: Engine) -> ASGIApp:
    """The dialect over `engine`, at its absolute paths."""
    sockets: list[BaseRoute] = [
        *socket_routes("/instances/{id}/exec", engine, exec.execute),
        *socket_routes("/instances/{id}/cp", engine, cp.copy),
    ]
    routes = [*sockets, *paths_of(ROWS, engine), *routes_registry.registry_routes(engine)]
    return Router(routes, redirect_slashes=False, default=_nowhere)
