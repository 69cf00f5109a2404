"""What runs inside guests and is not the agent: scripts for a guest's own Python, written there as they stand.

Nothing of ours is imported in them, and nothing but their text is used here. They run on Python 3.8 and later.
"""

from __future__ import annotations

from importlib import resources


def text(name: str) -> bytes:
    """A script's own text."""
    return (resources.files(__name__) / name).read_bytes()
