"""How this API says no: a status and a text (vergeos.md §1.5)."""

from __future__ import annotations

_LONGEST = 100


class Refusal(Exception):
    """An answer of `status` whose body is `{"err": text}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text.encode(errors="replace").decode()  # what a client sent may be no text at all


def invalid() -> Refusal:
    """Of a text that is none of the language."""
    return Refusal(422, "Invalid argument")


def invalid_field(name: str, why: str) -> Refusal:
    """Of a value that a column does not take."""
    return Refusal(422, f"Validation error on field: '{name}' - '{why}'")


def not_in_list(name: str, value: str) -> Refusal:
    """Of a word that is none of a column's choices."""
    return Refusal(422, f"value '{value[:_LONGEST]}' is not in list for field '{name}'")


def read_only(name: str) -> Refusal:
    """Of a column that only the server writes."""
    return Refusal(422, f"field '{name}' is readonly")
