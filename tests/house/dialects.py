"""`docs/dialects.md` from the code: what each API calls the states of a machine."""

from __future__ import annotations

from collections.abc import Mapping

from polyvisor.dialects.hanzo.states import WORDS as HANZO
from polyvisor.dialects.hypeman.states import WORDS as HYPEMAN
from polyvisor.dialects.instavm.states import WORDS as INSTAVM
from polyvisor.dialects.native.states import WORDS as NATIVE
from polyvisor.dialects.velocity.states import WORDS as VELOCITY
from polyvisor.dialects.vergeos.sources import STATUSES
from polyvisor.model.face import Face

TABLES: Mapping[str, Mapping[Face, str]] = {
    "native": NATIVE,
    "Hypeman": HYPEMAN,
    "Velocity": VELOCITY,
    "VergeOS": {now: " / ".join(words) for now, words in STATUSES.items()},
    "InstaVM": INSTAVM,
    "Hanzo Visor": HANZO,
}
HEAD = """# One machine, six words

What each API calls a machine that is in one of our states (`model/face.py`). The table is made of those in the code
(`python tests/house/dialects.py`); a test compares them. VergeOS tells the status of the machine and that of its state.

A running machine whose guest is not up yet is told as one that is coming up: `Initializing` (Hypeman), `creating`
(InstaVM), `provisioning` or `restarting` (Hanzo Visor). Where an API has no word, the nearest one stands: a machine in
standby is `PAUSED` to Velocity and `stopped` to Hanzo Visor, and both let it go on when they are asked to run it.

"""


def document() -> str:
    """All of it."""
    rows = [["our state", *TABLES]]
    rows += [[now.value, *(words[now] for words in TABLES.values())] for now in Face]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return HEAD + "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


if __name__ == "__main__":
    print(document(), end="")
