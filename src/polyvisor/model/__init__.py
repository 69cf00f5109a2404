"""The nouns: frozen dataclasses, closed enums, typed ids, units and faults.

No IO, no asyncio, no pydantic; imported by every layer, imports none of them.
"""
