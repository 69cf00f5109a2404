"""XML from strangers as a tree: no document types, so no entities; bounded in size and depth."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from xml.parsers import expat

from polyvisor.model.faults import Invalid
from polyvisor.model.units import MIB

LARGEST = MIB
_DEEPEST = 64
_MOST = 20_000  # elements


def parse(text: bytes, what: str) -> ET.Element:
    """The root. Names are without their namespaces. :raise Invalid: it is no XML, or more than is taken."""
    if len(text) > LARGEST:
        raise Invalid(f"{what} is larger than {LARGEST} bytes", field="file")
    builder, depth, count = ET.TreeBuilder(), 0, 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > _DEEPEST or count > _MOST:
            raise Invalid(f"{what} has more elements than are taken", field="file")
        builder.start(_plain(name), {_plain(one): value for one, value in attributes.items()})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(_plain(name))

    def refuse(*_: object) -> None:
        raise Invalid(f"{what} has a document type, which is not taken", field="file")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:
        raise Invalid(f"{what} is not readable XML", field="file", private=str(error)) from error


def _plain(name: str) -> str:
    return name.rpartition(" ")[2]
