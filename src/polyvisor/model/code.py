"""Code that is run in an instance, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from polyvisor.model.units import Seconds


class Language(StrEnum):
    """What it is written in."""

    PYTHON = "python"
    BASH = "bash"


TIMED_OUT = 124
"""The exit code of what was ended at its time limit, as timeout(1) has it."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What code has said and how it ended. Times in seconds; `cpu_time` of all its processes that had ended by then."""

    stdout: str
    stderr: str
    exit_code: int
    execution_time: Seconds
    cpu_time: Seconds
