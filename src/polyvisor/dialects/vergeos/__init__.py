"""VergeOS: `/api/v4` as its clients know it, over our instances, volumes, snapshots, projects and users.

A VM is an instance, a drive a volume, a file a medium. Keys are numbers, see `sources`. See NOTES.md.
"""

from polyvisor.dialects.vergeos.app import is_ours, make_app

__all__ = ["is_ours", "make_app"]
