"""A hypervisor that runs nothing: for demos, for dialect tests, and as documentation of what a driver must do.

It obeys the same contract suite as QEMU. Its machines are small files, so they outlive the manager as real ones do.
`Knob` scripts faults: what to refuse, what to delay, who is deaf.
"""
