"""polyvisor: one server that runs real virtual machines and speaks five VM-management APIs over one engine."""

__version__ = "0.1.0"
