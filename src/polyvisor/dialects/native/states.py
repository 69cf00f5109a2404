"""Faces as this dialect's words: ours, so one to one."""

from __future__ import annotations

from polyvisor.dialects.kit.tables import total
from polyvisor.model.face import Face

WORDS = total({face: face.value for face in Face}, tuple(Face), "native states")
FACES = {word: face for face, word in WORDS.items()}
