"""Tongues: each folder is one API as an ASGI application of its own, a leaf that knows the engine and nothing else."""
