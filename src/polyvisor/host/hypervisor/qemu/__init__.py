"""QEMU: argv (pure), process (find and prove), qmp (one owner, time limits), live (a running machine), driver."""
