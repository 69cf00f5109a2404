"""The page with a terminal: two files of ours, and xterm.js from where its Debian package puts it.

The package has the modules of Node and no file for browsers that works. So they are put into one here, as any bundler
would, with the little that lets them find each other.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from starlette.responses import Response

from polyvisor.dialects.hanzo import errors

_HERE = files(__name__)
_OURS = {"vm.terminal.html": "terminal.html", "vm.terminal.js": "terminal.js"}
_SCRIPT, _STYLE = "vm.xterm.js", "vm.xterm.css"
_ENTRANCE, _ADDON = "public/Terminal", "addons/fit/fit"
_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # The emulator sets styles of its own on what it draws.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_LOADER = """\
const made = {};
function load(name) {
  if (!(name in made)) {
    const module = (made[name] = { exports: {} });
    const find = (wanted) => load(new URL(wanted, "file:///" + name).pathname.slice(1));
    modules[name](find, module, module.exports);
  }
  return made[name].exports;
}
"""


class Page:
    """The files by the name that is asked for. `xterm` is the package's folder."""

    def __init__(self, xterm: Path) -> None:
        self._lib = xterm / "lib"
        self._bundle = b""

    def has(self, name: str) -> bool:
        """Whether it is a file of the page."""
        return name in _OURS or name in (_SCRIPT, _STYLE)

    def answer(self, name: str, method: str) -> Response:
        """The file; nobody need say who he is to read it. Without the package there is no page."""
        if method not in ("GET", "HEAD"):
            text = f"Unsupported {method}-request to {name!r}: it takes GET"
            return errors.reply(name, "METHOD_NOT_SUPPORTED", text, {"Allow": "GET, HEAD"})
        if not all((self._lib / file).is_file() for file in (f"{_ENTRANCE}.js", f"{_ADDON}.js", "xterm.css")):
            text = "the page needs xterm.js: install the Debian package node-xterm, or say in hanzo.xterm where it is"
            return errors.reply(name, "PRECONDITION_FAILED", text)
        headers = _HEADERS | {"Content-Type": _TYPES[name.rpartition(".")[2]]}
        return Response(self._read(name), headers=headers)

    def _read(self, name: str) -> bytes:
        if name in _OURS:
            return (_HERE / _OURS[name]).read_bytes()
        if name == _STYLE:
            return (self._lib / "xterm.css").read_bytes()
        self._bundle = self._bundle or bundle(self._lib)
        return self._bundle


def bundle(lib: Path) -> bytes:
    """The emulator and its addon that fits it to its window, as one script with both for all to see."""
    found = [path.relative_to(lib).with_suffix("").as_posix() for path in sorted(lib.rglob("*.js"))]
    wanted = [name for name in found if not name.endswith(".test") and not name.startswith("addons/")]
    modules = "".join(
        f"{json.dumps(name)}: function (require, module, exports) {{\n{(lib / f'{name}.js').read_text()}\n}},\n"
        for name in (*wanted, _ADDON)  # addons are behind a link
    )
    given = f'window.Terminal = load("{_ENTRANCE}").Terminal;\nwindow.fit = load("{_ADDON}");\n'
    return f"(function () {{\nconst modules = {{\n{modules}}};\n{_LOADER}{given}}})();\n".encode()
