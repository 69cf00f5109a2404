"""The store: records in SQLite or PostgreSQL behind `ports.store`.

Imports ports and model only; nobody but the composition root imports it. `open_store(url)` is the way in.

Invariants: one writer at a time; intent and observation are columns with one UPDATE each, so that engine and
reconciler cannot overwrite each other; topics are published after the commit that they tell of, never before.
"""

from __future__ import annotations

from polyvisor.store.sql import SqlStore, open_store

__all__ = ["SqlStore", "open_store"]
