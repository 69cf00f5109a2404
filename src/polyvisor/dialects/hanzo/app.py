"""The application: every procedure of this dialect, its terminal and the page for that."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from polyvisor.dialects.hanzo import routes_organizations, routes_users, routes_vms, routes_volumes, terminal
from polyvisor.dialects.hanzo.page import Page
from polyvisor.dialects.hanzo.settings import Settings
from polyvisor.dialects.hanzo.table import PREFIX, Procedure, Table
from polyvisor.engine import Engine

_ROUTERS = ("vm.", "volume.", "organization.", "orgTeam.", "user.")
_MODULES = (routes_vms, routes_volumes, routes_organizations, routes_users, terminal)
PROCEDURES: dict[str, Procedure] = {
    name: procedure for module in _MODULES for name, procedure in module.routes.procedures.items()
}


def is_ours(path: str) -> bool:
    """Whether a path belongs to this dialect."""
    return path.startswith(tuple(PREFIX + router for router in _ROUTERS))


def make_app(engine: Engine, settings: Settings) -> ASGIApp:
    """The dialect over `engine`, at its absolute paths."""
    table, page = Table(PROCEDURES, engine, settings), Page(settings.xterm)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(PREFIX)
        if scope["type"] == "websocket":
            await terminal.connect(table, engine, scope, receive, send)
        elif page.has(name):
            await page.answer(name, scope["method"])(scope, receive, send)
        else:
            await (await table.answer(Request(scope, receive)))(scope, receive, send)

    return app
