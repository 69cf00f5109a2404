"""What holds for every test."""

from __future__ import annotations

import gc
import signal

import pytest


def pytest_configure() -> None:
    """A shell ignores SIGINT for what it runs in the background, and children inherit that: ours are interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Thousands of tests stay: they are not looked through for garbage again and again, as in the server itself."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What boots large guests comes first: begun last, it would keep one worker while the others had nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
