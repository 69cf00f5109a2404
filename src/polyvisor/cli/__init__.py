"""The command line: a client of the native API, and the door to `serve` and `doctor`.

Imports nothing heavy until a command needs it: `polyvisor --help` must not wait for a server's libraries.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The console script."""
    from polyvisor.cli.app import app
    from polyvisor.cli.settings import completing

    if completing():
        from typer.completion import completion_init  # type: ignore[attr-defined]  # typer's own home for it

        completion_init()
    try:
        app(prog_name="polyvisor")
    except KeyboardInterrupt:
        sys.exit(130)
