"""The text of `filter`, and what it says of a value (vergeos.md §1.7).

    filter := term (('and' | 'or') term)*         from left to right: neither goes before the other
    term   := '(' filter ')' | path op literal
    op     := eq ne gt ge lt le bw ew cs ct rx re
    literal:= 'text' | number | true | false | null | macro

In a text, a backslash takes the character after it as it is, and a `{...}` that balances is a macro, whose value goes
in its place: nothing, of one that is not known. `re` is known and matches nothing. `operators` has what each op means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from polyvisor.dialects.vergeos.language.errors import invalid
from polyvisor.dialects.vergeos.language.macros import Macro, parse_macro

LONGEST = 16 * 1024
DEEPEST = 32
MOST_SEARCHES = 32
OPERATORS = frozenset(("eq", "ne", "gt", "ge", "lt", "le", "bw", "ew", "cs", "ct", "rx", "re"))
_SEARCHES = frozenset(("cs", "ct", "rx"))
_TOKEN = re.compile(r"[ \t\r\n]*(?:([A-Za-z0-9_$#.-]+)|([()'{])|$)")
_PATH = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(#[A-Za-z_$][A-Za-z0-9_$]*){0,7}")
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
_WORDS = {"true": True, "false": False, "null": None}
_PLAIN = re.compile(r"[^\\'{]*")

Part = str | Macro
Literal = tuple[Part, ...] | bool | None
"""A text in its parts, also of a number, or a word."""


@dataclass(frozen=True, slots=True)
class Condition:
    """That a value stands so to a literal."""

    path: tuple[str, ...]
    operator: str
    literal: Literal


@dataclass(frozen=True, slots=True)
class Filter:
    """Terms, from left to right; `ands` says of each but the first whether an `and` joins it. No terms match all."""

    terms: tuple[Condition | Filter, ...] = ()
    ands: tuple[bool, ...] = ()

    @property
    def size(self) -> int:
        """How many conditions there are."""
        return sum(term.size if isinstance(term, Filter) else 1 for term in self.terms)


def parse_filter(text: str) -> Filter:
    """What rows have to be. A blank text matches all of them. :raise Refusal: 422."""
    if len(text) > LONGEST:
        raise invalid()
    parser = _Parser(text)
    if not parser.ahead:
        return Filter()
    found = parser.filter(0)
    if parser.ahead:
        raise invalid()
    return found


class _Parser:
    """Looks one token ahead, which is empty at the end. Quotes and braces are tokens that literals begin with."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._searches = 0
        self.ahead = ""
        self._advance()

    def _advance(self) -> str:
        """The token that was next."""
        taken = self.ahead
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            raise invalid()
        self.ahead = match[1] or match[2] or ""
        self._position = match.end()
        return taken

    def filter(self, depth: int) -> Filter:
        """Terms up to what cannot follow one."""
        if depth > DEEPEST:
            raise invalid()
        terms = [self._term(depth)]
        ands = []
        while self.ahead in ("and", "or"):
            ands.append(self._advance() == "and")
            terms.append(self._term(depth))
        return Filter(tuple(terms), tuple(ands))

    def _term(self, depth: int) -> Condition | Filter:
        if self.ahead == "(":
            self._advance()
            inner = self.filter(depth + 1)
            if self._advance() != ")":
                raise invalid()
            return inner
        path, operator = self._advance(), self._advance()
        if not _PATH.fullmatch(path) or operator not in OPERATORS:
            raise invalid()
        if operator in _SEARCHES:
            self._searches += 1
            if self._searches > MOST_SEARCHES:
                raise invalid()
        return Condition(tuple(path.split("#")), operator, self._literal())

    def _literal(self) -> Literal:
        if self.ahead == "'":
            return self._quoted()
        if self.ahead == "{":
            macro, self._position = parse_macro(self._text, self._position)
            self._advance()
            if macro is None:
                raise invalid()
            return (macro,)
        word = self._advance()
        if word in _WORDS:
            return _WORDS[word]
        if not _NUMBER.fullmatch(word):
            raise invalid()
        return (word,)

    def _quoted(self) -> Literal:
        parts: list[Part] = []
        text, position = self._text, self._position
        while True:
            plain = _PLAIN.match(text, position)
            assert plain is not None  # it matches nothing, too
            parts.append(plain[0])
            position = plain.end()
            sign = text[position : position + 1]
            if sign == "\\" and position + 1 < len(text):
                parts.append(text[position + 1])
                position += 2
            elif sign == "{":
                macro, position = parse_macro(text, position + 1)
                parts += [] if macro is None else [macro]
            elif sign == "'":
                self._position = position + 1
                self._advance()
                return _joined(parts)
            else:
                raise invalid()


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """The same with texts that follow each other as one."""
    joined: list[Part] = []
    run: list[str] = []
    for part in parts:
        if isinstance(part, str):
            run.append(part)
        else:
            joined += ["".join(run), part]
            run = []
    return (*joined, "".join(run))
