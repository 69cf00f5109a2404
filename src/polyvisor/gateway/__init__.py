"""The SSH gateway: `ssh VM@host` with a key of one's own, commands, terminals, files and ports of the guest.

A tongue like the dialects: it asks the engine, and knows nothing of hosts and stores. asyncssh speaks the protocol, and
is imported where there is a gateway alone.
"""
