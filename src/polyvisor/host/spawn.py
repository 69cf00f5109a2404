"""Starting processes that outlive us: in a session of their own, with only the descriptors they are given."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


def spawn(
    argv: Sequence[str], *, fds: Sequence[int], output: int, env: Mapping[str, str] | None = None, cwd: str = "/"
) -> int:
    """Start `argv` detached and return its pid. `output` takes stdout and stderr; `fds` keep their numbers.
    `env` is added to the little that every such process gets."""
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=tuple(fds),
        start_new_session=True,
        cwd=cwd,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", **(env or {})},
    )
    process.returncode = 0  # waited for by pidfd; tells Popen's destructor that nobody forgot it
    return process.pid
