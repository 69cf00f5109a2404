"""Images on a host: fetch, verify, flatten or convert, keep by digest. `local.LocalImages` is the port's way in.

Everything that comes in is hostile until it was checked; nothing is ever unpacked onto the host's file system.
"""
