"""Dialect VergeOS: an API of tables, whose requests are written in a language of their own.

What the language is, `language/` says, and knows nothing else. Contract: vergeos.md.
"""
