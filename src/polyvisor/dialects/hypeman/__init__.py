"""The dialect of Hypeman (kernel/hypeman), API 0.3.0, SDK 0.28.0. NOTES.md says where we differ and why."""

from polyvisor.dialects.hypeman.app import is_ours, make_app

__all__ = ["is_ours", "make_app"]
