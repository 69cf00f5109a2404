"""Wishes: authorise, admit, write intent and operation in one transaction, answer.

One module per noun. The engine never touches a machine to change it: the reconciler does, from what is written here.
"""

from polyvisor.engine.core import Engine

__all__ = ["Engine"]
