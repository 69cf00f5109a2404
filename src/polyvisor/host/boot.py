"""What every micro guest boots from: kernel, initial RAM disk, agent; made once, then shared.

Written against the guest package; see `host/guest`.
"""
