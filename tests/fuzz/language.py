"""`scripts/fuzz language`: nonsense for the request language of the VergeOS dialect is refused or answered, in time.

Texts are drawn from the language's own words, or are real ones with damage. Nothing but a `Refusal` may come out of the
parsers and of a query, and no case may take more calls than its length allows: clocks would tell of what others do to
the machine, too. Cases of one seed are always the same.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from cProfile import Profile

from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.language.query import needs, parse_query, run
from unit.dialects.vergeos.catalog import CATALOG, VMF, stock

SEED = 20261126
NOW = 1_800_000_000
_BASE, _EACH = 5_000, 20
"""Calls that a case may take, and what each character adds: far above what it takes, far below what a loop would."""

FIELDS = (
    VMF,
    "all,$key,machine#status#running as running",
    "machine[name,status[status,running],drives[name,disksize]]",
    "name,collapse(tags[tag#name]) as c,count(machine#drives) as n,machine#status#display(status)",
    "sum(machine#drives#disksize),machine#sum(drives[disksize]) as s",
    "dashboard,summary,most",
    ",",
)
FILTERS = (
    "(name eq 'o\\'br\\{x}') and is_snapshot eq false",
    "machine eq 54 and (enabled eq true or ram ge 5) and created ge 100",
    "name rx '^a.*b$' or name ct 'WEB' and owner ne null",
    "expires lt {$add({$now},604800)} and expires gt 0",
    "owner eq 'vms/42' or name eq 'a{b{$now}c}'",
    "machine#cluster#name eq 'lab'",
)
SORTS = ("+name", "-created, name", " machine#name")
WORDS = (
    *("name", "$key", "$display", "$row", "machine", "status", "drives", "owner", "tags", "nonsense"),
    *(
        "#",
        "#",
        ",",
        ",",
        "[",
        "]",
        "(",
        ")",
        " as ",
        " and ",
        " or ",
        "as",
        "and",
        "or",
        "'",
        "'",
        "'",
        "\\",
        "{",
        "}",
    ),
    *(
        " eq ",
        " ne ",
        " gt ",
        " bw ",
        " ct ",
        " cs ",
        " rx ",
        " re ",
        " like ",
        "null",
        "true",
        "false",
        "1",
        "-2.5",
        "42",
    ),
    *("{$now}", "{$add(", "{$add({$now},1)}", "all", "most", "dashboard", "round", "count(", "collapse(", "sum("),
    *("display(", "sha1(", "datetime(", "[[:alpha:]]", "(a*)*", "a{9}", "^", "$", ".", "é", "\0", "\ud800", "\u2028"),
    *("%", "&", "+", "-", " ", " ", "  ", "\n"),
)


def texts(draw: random.Random, real: tuple[str, ...]) -> str:
    """One text: words in any order, or a real one with damage."""
    kind = draw.randrange(4)
    if kind == 0:
        return "".join(draw.choice(WORDS) for _ in range(draw.randrange(1, 40)))
    if kind == 1:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randrange(1, 20)))
    text = draw.choice(real)
    for _ in range(draw.randrange(1, 6)):
        text = _damaged(draw, text, real)
    return text


def _damaged(draw: random.Random, text: str, real: tuple[str, ...]) -> str:
    begin, end = sorted((draw.randrange(len(text) + 1), draw.randrange(len(text) + 1)))
    kind = draw.randrange(7)
    if kind == 0:
        return text[:begin] + text[end:]
    if kind == 1:
        return text[:end] + text[begin:]
    if kind == 2:
        other = draw.choice(real)
        return text[:begin] + other[draw.randrange(len(other) + 1) :]
    if kind == 3:
        return text[:begin] + draw.choice(WORDS) * draw.choice((1, 1, 2, 40)) + text[begin:]
    if kind == 4:
        return text[:begin] + chr(draw.randrange(32, 127)) + text[begin + 1 :]
    if kind == 5 and len(text) < 400:
        return text * draw.randrange(1, 12)
    return text[:begin] + draw.choice(WORDS) + text[end:]


def cases(seed: int, number: int) -> Iterator[dict[str, str]]:
    """Parameters of as many requests."""
    draw = random.Random(seed)
    for _ in range(number):
        case = {"fields": texts(draw, FIELDS), "filter": texts(draw, FILTERS)}
        for name in ("fields", "filter"):  # one that is right lets the other one come further
            if draw.randrange(3) == 0:
                case[name] = draw.choice(FIELDS if name == "fields" else FILTERS)
        if draw.randrange(4) == 0:
            case["sort"] = texts(draw, SORTS)
        if draw.randrange(8) == 0:
            case["limit"] = draw.choice(("0", "1", "-1", "x", "٣", "9" * 40))
        yield case


def tried(case: dict[str, str], counted: Counter[str]) -> None:
    """One case. :raise AssertionError: when it took too much, and whatever else comes out of it but a `Refusal`."""
    begin = time.thread_time()
    with calls() as taken:
        try:
            query = parse_query(case)
            there = needs(CATALOG, "vms", query)
            sources = {name: rows for name, rows in STOCK.items() if name in there}
            run(CATALOG, "vms", query, sources, NOW)
            counted["answered"] += 1
        except Refusal as refusal:
            assert refusal.status == 422, refusal
            counted["refused"] += 1
    counted["slowest_us"] = max(counted["slowest_us"], round((time.thread_time() - begin) * 1e6))
    counted["most_calls"] = max(counted["most_calls"], taken[0])
    assert taken[0] < _BASE + _EACH * sum(map(len, case.values()))


@contextmanager
def calls() -> Iterator[list[int]]:
    """How many calls are made, of functions in Python and in C: known at the end."""
    taken = [0]
    profile = Profile()
    profile.enable()
    try:
        yield taken
    finally:
        profile.disable()
        taken[0] = sum(entry.callcount for entry in profile.getstats())


STOCK = stock()


def main() -> int:
    """Run it; 0 where every case was answered or refused."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz language", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    counted: Counter[str] = Counter()
    for case in cases(asked.seed, asked.cases):
        try:
            tried(case, counted)
        except Exception:
            print(f"failed by {case!r}", file=sys.stderr)
            raise
    print(f"{asked.cases} cases of seed {asked.seed}: {dict(counted)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
