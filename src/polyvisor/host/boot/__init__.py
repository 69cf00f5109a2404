"""What micro guests boot from: kernel, initial RAM disk, agent; made once by recipe, then shared by all.

kernel    Debian's cloud kernel, unpacked (never installed), as the plain ELF that a micro machine enters directly
initrd    the agent as init, and the modules it needs
agent     our C program, compiled here
config    what one guest is told about itself
"""

from pathlib import Path
from typing import Protocol

from polyvisor.host.boot.config import guest_config
from polyvisor.host.boot.files import BootFiles

__all__ = ["Boot", "BootFiles", "guest_config"]


class Boot(Protocol):
    """What guests boot from, made when first asked for."""

    async def agent(self) -> Path:
        """The agent's program."""

    async def kernel(self) -> tuple[Path, Path]:
        """Kernel and initial RAM disk of micro guests."""
