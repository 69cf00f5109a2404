"""Calls of the Hanzo dialect to a real server, and a browser for its page."""

from __future__ import annotations

import base64
import json
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from serving import Server


class Visor:
    """The operator's calls."""

    def __init__(self, server: Server) -> None:
        facts = server.facts
        self.url, self.token = facts["url"], facts["api_key"]
        self.organization = f"org_{facts['project']}"

    def ok(self, line: str, status: int = 200, **fields: Any) -> Any:
        """What a call that succeeds says."""
        answer = self._ask(line, status, fields)
        return answer.json()["result"]["data"] if answer.content else None

    def refused(self, line: str, status: int, **fields: Any) -> str:
        """Why a call is refused."""
        return str(self._ask(line, status, fields).json()["error"]["message"])

    def _ask(self, line: str, status: int, fields: dict[str, Any]) -> httpx.Response:
        method, name = line.split()
        how: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
        how |= {"headers": {"Authorization": f"Bearer {self.token}"}, "trust_env": False, "timeout": 180}
        answer = httpx.request(method, f"{self.url}/api/{name}", **how)
        assert answer.status_code == status, answer.text
        return answer

    def raw(self, method: str, path: str, body: dict[str, Any]) -> None:
        """A call of another dialect, that succeeds."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.request(method, self.url + path, json=body, headers=headers, trust_env=False, timeout=60)
        assert answer.status_code < 300, answer.text

    def until(self, vm: str, status: str, limit: float) -> dict[str, Any]:
        """Until the machine is of that status."""
        end = time.monotonic() + limit
        while (found := self.ok("GET vm.one", vmId=vm))["status"] != status:
            assert found["status"] != "error" and time.monotonic() < end, found
            time.sleep(0.5)
        return dict(found)


class Browser:
    """One page of a headless Chromium, by its own protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._count = 0

    def call(self, method: str, **fields: Any) -> Any:
        """A command, and what it answers; events are passed over."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": fields}))
        while True:
            said = json.loads(self._socket.recv(timeout=60))
            if said.get("id") == self._count:
                assert "error" not in said, said
                return said["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def until(self, expression: str, limit: float = 60) -> Any:
        """Until that is true in the page."""
        end = time.monotonic() + limit
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < end, (expression, self.text())
            time.sleep(0.1)
        return found

    def text(self) -> str:
        """What the terminal shows, and what scrolled out of it."""
        lines = "Array.from({length: b.lines.length}, (_, i) => b.translateBufferLineToString(i, true)).join('\\n')"
        there = "typeof window.terminal === 'undefined' ? '' : "
        return str(self.evaluate(f"{there}(b => {lines})(window.terminal._core.buffer)"))

    def type(self, text: str) -> None:
        """Keys, and the one that ends a line."""
        for char in text:
            self.call("Input.dispatchKeyEvent", type="char", text=char)
        enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **enter)
        self.call("Input.dispatchKeyEvent", type="char", text="\r", **enter)
        self.call("Input.dispatchKeyEvent", type="keyUp", **enter)

    def says(self, text: str, limit: float = 60) -> str:
        """Until the terminal shows that."""
        end = time.monotonic() + limit
        while text not in (shown := self.text()):
            assert time.monotonic() < end, shown
            time.sleep(0.1)
        return shown

    def picture(self) -> bytes:
        """The page as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Chromium on an empty page, which finds nobody but this machine's loopback; it is gone afterwards."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is not installed: scripts/setup --dev"
    argv = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-port=0",
        f"--user-data-dir={folder}", "--window-size=1000,700", "about:blank",
    ]  # fmt: skip
    with (folder.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        port = _port(folder, process)
        pages = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False, timeout=30).json()
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        with connect(address, proxy=None, max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        finally:
            process.kill()


def _port(folder: Path, process: subprocess.Popen[bytes]) -> int:
    """Where it listens, as it writes down."""
    end = time.monotonic() + 60
    file = folder / "DevToolsActivePort"
    while time.monotonic() < end and process.poll() is None:
        if file.exists() and (lines := file.read_text().split()):
            return int(lines[0])
        select.select([], [], [], 0.1)
    raise AssertionError((folder.parent / "chromium.log").read_text()[-3000:])
