"""What a POST is answered with (vergeos.md §1.4)."""

from __future__ import annotations

from collections.abc import Mapping


def receipt(table: str, key: int | str, response: Mapping[str, str] | None = None) -> dict[str, object]:
    """Where the new row is. `$key` is a text here and a number in rows: so clients decode it (vergeos.md §0, fact 4).

    `response` is there only when it is given: some clients know it as an object, some as a text, of the same table.
    """
    place = f"{table}/{key}"
    row = key if isinstance(key, int) else 1
    answer: dict[str, object] = {"location": f"/v4/{place}", "dbpath": place, "$row": row, "$key": str(key)}
    if response is not None:
        answer["response"] = dict(response)
    return answer
