"""The host's side of our agent (the guest's is in C, in the top-level `guest/`).

frames    frames on a byte stream, pure      the counterpart of guest/wire.c
pairs     requests and results, pure
agent     one connection to one agent        a Guest
channel   one command or transfer on it      a Process
journal   what the workload said and how it ended, from the file that the hypervisor keeps
"""
