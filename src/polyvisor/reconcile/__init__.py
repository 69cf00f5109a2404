"""Facts: the only writer of `Observed` and the only closer of operations.

One task owns an instance while there is something to do. It looks at the machine, asks `plan` for the next small step,
runs it, and looks again. Wake-ups carry no data; what was missed is found by the periodic scan.
"""
