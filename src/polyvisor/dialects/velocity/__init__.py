"""Velocity: `/u`, `/v` and `/m` as its server has them, over our projects, users, instances and volumes.

A group is a project, a permission a set of actions, an authkey a session's token; ids are numbers. See NOTES.md.
"""

from polyvisor.dialects.velocity.app import is_ours, make_app

__all__ = ["is_ours", "make_app"]
