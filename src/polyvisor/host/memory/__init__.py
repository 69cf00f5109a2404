"""The memory of machines as files: that of running ones in the host's RAM, that of suspended ones on disk.

A machine that was started cold has a file in tmpfs for RAM, which it maps shared: saving it is giving that file another
name. One that was made of saved memory maps that privately; what it has changed since is its own copies of pages, and
saving it is writing those down. So an image of memory is a sparse file of pages, with at most one other below it.
"""

from polyvisor.host.memory.files import MemoryFiles

__all__ = ["MemoryFiles"]
