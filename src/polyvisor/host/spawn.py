"""Starting processes that outlive us: in a session of their own, with only the descriptors they are given."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def spawn(argv: Sequence[str], *, fds: Sequence[int], output: int) -> int:
    """Start `argv` detached and return its pid. `output` takes stdout and stderr; `fds` keep their numbers."""
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=tuple(fds),
        start_new_session=True,
        cwd="/",
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )
    process.returncode = 0  # waited for by pidfd; tells Popen's destructor that nobody forgot it
    return process.pid
