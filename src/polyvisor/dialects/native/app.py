"""The application: routes, documents, health and metrics."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.staticfiles import StaticFiles

from polyvisor import __version__
from polyvisor.dialects.native import (
    errors,
    routes_access,
    routes_code,
    routes_files,
    routes_ingresses,
    routes_instances,
    routes_screens,
    routes_snapshots,
    routes_sockets,
    routes_tasks,
    routes_templates,
    routes_things,
    routes_volumes,
)
from polyvisor.dialects.native.auth import DOCUMENT, PREFIX, Caller, Core, Door
from polyvisor.dialects.native.describe import describe
from polyvisor.dialects.native.limits import BodyLimit
from polyvisor.engine import Engine

_ASSETS = "/docs/assets"


class _Native(FastAPI):
    """FastAPI with our own word on the document."""

    def openapi(self) -> dict[str, object]:
        """The document."""
        return describe(self)


def _operation_id(route: APIRoute) -> str:
    return route.name


def make_app(engine: Engine) -> FastAPI:
    """The native API over `engine`, at its absolute paths."""
    app = _Native(
        title="polyvisor",
        description="Virtual machines over HTTP. Every error is a `Problem`; unknown fields are refused.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=DOCUMENT,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.engine = engine
    errors.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(Door, engine=engine)
    api = APIRouter(prefix=PREFIX)
    modules = (
        routes_access, routes_files, routes_sockets, routes_instances, routes_snapshots, routes_tasks, routes_templates,
        routes_ingresses, routes_volumes, routes_screens, routes_things, routes_code,
    )  # fmt: skip
    for module in modules:
        api.include_router(module.router)
    app.include_router(api)
    app.include_router(_health())
    _add_docs(app)
    return app


def _health() -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/livez", response_class=PlainTextResponse)
    async def livez() -> str:
        """The process answers."""
        return "ok\n"

    @router.get("/readyz", response_class=PlainTextResponse, responses={503: {"description": "Not ready"}})
    async def readyz(core: Core) -> PlainTextResponse:
        """The store answers and the host can take instances."""
        ok = await core.hosts.healthy()
        return PlainTextResponse("ok\n" if ok else "not ready\n", 200 if ok else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics(caller: Caller, core: Core) -> str:
        """Prometheus text."""
        usage = await core.hosts.usage(caller)
        rows = [
            ("polyvisor_instances", "instances", usage.instances),
            ("polyvisor_vcpus", "vCPUs given to instances", usage.vcpus),
            ("polyvisor_memory_bytes", "memory given to instances", usage.memory),
            ("polyvisor_snapshot_bytes", "disk that snapshots hold", await core.snapshots.held(caller)),
            ("polyvisor_disk_bytes", "disk given to instances and volumes", usage.disk),
        ]
        return "".join(f"# HELP {n} {text}\n# TYPE {n} gauge\n{n} {value}\n" for n, text, value in rows)

    return router


def _add_docs(app: FastAPI) -> None:
    """A documentation page whose script comes from here: an installation may have no way out."""
    app.mount(_ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=DOCUMENT,
            title="polyvisor API",
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_ASSETS}/favicon.png",
        )
