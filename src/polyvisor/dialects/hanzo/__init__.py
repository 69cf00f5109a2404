"""Hanzo Visor: `vm.*` and what belongs to it, over our projects, instances, volumes and keys.

An organization is a project, a role a set of actions, a token an API key; ids are ours with a prefix. See NOTES.md.
"""

from polyvisor.dialects.hanzo.app import is_ours, make_app
from polyvisor.dialects.hanzo.settings import Settings, System

__all__ = ["Settings", "System", "is_ours", "make_app"]
