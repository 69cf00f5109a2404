"""A short run of `scripts/fuzz`: the fuzzer works, and what it makes of each operation is answered as documented."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
CASES = 200


def test_a_few_hundred_requests_are_answered_as_documented() -> None:
    words = ["--examples", "4", "--phases", "fuzzing", "--least", str(CASES), "--slow", "20"]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", *words], cwd=TESTS, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
