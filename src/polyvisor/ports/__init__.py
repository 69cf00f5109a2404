"""What decisions need of the world, as Protocols whose docstrings are the contract.

Implemented by the hands (`host`, `store`), used by `engine` and `reconcile`; imports `model` only.
"""
