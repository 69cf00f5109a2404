"""The application: every route of this dialect, at its absolute path."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from polyvisor.dialects.instavm import (
    errors,
    routes_code,
    routes_domains,
    routes_egress,
    routes_platform,
    routes_ptys,
    routes_sessions,
    routes_shares,
    routes_snapshots,
    routes_vaults,
    routes_vms,
    routes_volumes,
    routes_webhooks,
)
from polyvisor.dialects.instavm.builds import Builds
from polyvisor.dialects.instavm.chores import Chores
from polyvisor.dialects.instavm.dispatch import Dispatcher
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.executions import Executions
from polyvisor.dialects.instavm.limits import BodyLimit
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.dialects.instavm.ptys import Ptys
from polyvisor.dialects.instavm.settings import Settings
from polyvisor.engine import Engine
from polyvisor.model.principal import SYSTEM

_ROOTS = frozenset({"/execute", "/execute_async", "/upload", "/download", "/kill"})


def is_ours(path: str) -> bool:
    """Whether a path is one of this dialect's; a client whose base address ends in a slash asks with two."""
    path = "/" + path.lstrip("/")
    return path.startswith(("/v1/", "/api/cli-auth/")) or path in _ROOTS


class Instavm:
    """The application, behind what makes one path of several spellings of it."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = "/" + scope["path"].lstrip("/")
        await self.app({**scope, "path": path} if path != scope["path"] else scope, receive, send)

    async def close(self) -> None:
        """End what hangs on this server: terminals, and what is executed while nobody waits."""
        await self.app.state.executions.close()
        await self.app.state.builds.close()
        await self.app.state.ptys.close()


def make_app(engine: Engine, settings: Settings | None = None) -> Instavm:
    """The dialect over `engine`."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.engine = engine
    app.state.settings = settings or Settings()
    call = Call(engine, SYSTEM, app.state.settings)
    app.state.executions, app.state.ptys, app.state.builds = Executions(), Ptys(), Builds()
    engine.keeper.chores[DIALECT] = Chores(call, app.state.builds).tick
    app.state.dispatcher = Dispatcher(call)
    engine.keeper.chores[f"{DIALECT} webhooks"] = app.state.dispatcher.run
    errors.install(app)
    app.add_middleware(BodyLimit, engine=engine)
    for router in (
        routes_vms.router, routes_sessions.router, routes_sessions.root, routes_code.router, routes_ptys.by_vm,
        routes_ptys.by_session, routes_snapshots.router, routes_shares.router, routes_domains.router,
        routes_egress.router, routes_volumes.router, routes_webhooks.router, routes_vaults.router,
        routes_platform.router, routes_platform.absent,
    ):  # fmt: skip
        app.include_router(router)
    whole = Instavm(app)
    engine.ends.append(whole.close)
    return whole
