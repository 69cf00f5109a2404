"""A client of the native API: what the CLI stands on, and what a Python program can use.

    async with Client("http://127.0.0.1:8080", key) as client:
        vm = await client.instances.create(CreateInstance(image="busybox"), wait="ready")

Knows the wire types and nothing else of the server. Every refusal is a `Refused`.
"""

from polyvisor.client.api import Client
from polyvisor.client.errors import Refused
from polyvisor.client.sockets import Console, Exec, Output

__all__ = ["Client", "Console", "Exec", "Output", "Refused"]
