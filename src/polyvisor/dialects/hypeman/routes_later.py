"""What is not there yet: builds and builders. There are none, and none can be made.

Each noun leaves here for a module of its own.
"""

from __future__ import annotations

from starlette.responses import Response

from polyvisor.dialects.hypeman import wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.table import Call, Handler, Routes

routes = Routes()
_NOUNS = (
    ("builds", "build", "a build"),
    ("builders", "builder", "a builder"),
)


def _named(handler: Handler, name: str, text: str) -> Handler:
    handler.__name__, handler.__doc__ = name, text
    return handler


def _declare(path: str, scope: str, noun: str) -> None:
    async def every(call: Call) -> Response:
        return said([])

    async def make(call: Call) -> Response:
        raise Refusal(501, "not_implemented", f"{path}: {noun} cannot be made by this server")

    async def one(call: Call) -> Response:
        raise Refusal(404, "not_found", "resource not found")

    async def remove(call: Call) -> Response:
        raise Refusal(404, "not_found", "resource not found")

    word = path.removesuffix("s")
    routes.add(f"GET /{path}", f"{scope}:read", 200, list[wire.Error])(_named(every, f"list_{path}", "There are none."))
    routes.add(f"POST /{path}", f"{scope}:write", 201, None)(_named(make, f"create_{word}", "None can be made."))
    routes.add(f"GET /{path}/{{id}}", f"{scope}:read", 200, None)(_named(one, f"get_{word}", "There are none."))
    gone = _named(remove, f"delete_{word}", "There are none.")
    routes.add(f"DELETE /{path}/{{id}}", f"{scope}:delete", 204, None)(gone)


for _path, _scope, _noun in _NOUNS:
    _declare(_path, _scope, _noun)
