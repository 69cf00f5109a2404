"""The InstaVM API (instavm.io): sandboxes for agents. Contract: instavm.md and its seed; differences: NOTES.md here."""

from polyvisor.dialects.instavm.app import is_ours, make_app
from polyvisor.dialects.instavm.settings import Settings

__all__ = ["Settings", "is_ours", "make_app"]
