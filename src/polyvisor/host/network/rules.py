"""nftables rules as text: pure, so that they can be read and tested without a kernel.

Two tables, both named after us. `inet`: NAT for the subnet, and what guests may reach: each other and the world, but of
the host only DHCP, DNS and ping, and never the link-local range where metadata services live. `bridge`: a guest speaks
with its own MAC and IP address or not at all, and of other instances reaches only those of its own project.
"""

from __future__ import annotations

import zlib

from polyvisor.model.network import Network

TABLE = "polyvisor"


def table(network: Network, bridge: str) -> str:
    """Both tables from nothing, replacing what was there: safe to repeat."""
    subnet = str(network.subnet)
    return f"""
table inet {TABLE} {{}}
delete table inet {TABLE}
table inet {TABLE} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{bridge}" ct state established,related accept
    iifname "{bridge}" udp dport {{ 53, 67 }} accept
    iifname "{bridge}" tcp dport 53 accept
    iifname "{bridge}" icmp type echo-request accept
    iifname "{bridge}" drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" ip daddr 169.254.0.0/16 drop
    iifname "{bridge}" ip saddr != {subnet} drop
    iifname "{bridge}" accept
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} ip daddr != {subnet} masquerade
  }}
}}
table bridge {TABLE} {{}}
delete table bridge {TABLE}
table bridge {TABLE} {{
  set macs {{ type ifname . ether_addr; }}
  set ips {{ type ifname . ipv4_addr; }}
  map projects {{ type ifname : mark; }}
  set members {{ type ifname . mark; }}
  chain prerouting {{
    type filter hook prerouting priority filter; policy accept;
    iifname != "pv*" accept
    iifname . ether saddr != @macs drop
    ether type ip ip saddr 0.0.0.0 udp dport 67 accept
    ether type ip iifname . ip saddr != @ips drop
    ether type arp iifname . arp saddr ip != @ips drop
    ether type != {{ ip, arp }} drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname != "pv*" accept
    oifname != "pv*" accept
    meta mark set iifname map @projects
    oifname . meta mark @members accept
    drop
  }}
}}
"""


def guard(tap: str, mac: str, ip: str, project: str) -> str:
    """The addresses and the owner of one TAP; safe to repeat, since they never change."""
    mark = mark_of(project)
    return (
        f'add element bridge {TABLE} macs {{ "{tap}" . {mac} }}\n'
        f'add element bridge {TABLE} ips {{ "{tap}" . {ip} }}\n'
        f'add element bridge {TABLE} projects {{ "{tap}" : {mark} }}\n'
        f'add element bridge {TABLE} members {{ "{tap}" . {mark} }}\n'
    )


def unguard(tap: str, mac: str, ip: str, project: str) -> str:
    """Forget one TAP, in one transaction."""
    mark = mark_of(project)
    return (
        f'delete element bridge {TABLE} macs {{ "{tap}" . {mac} }}\n'
        f'delete element bridge {TABLE} ips {{ "{tap}" . {ip} }}\n'
        f'delete element bridge {TABLE} projects {{ "{tap}" }}\n'
        f'delete element bridge {TABLE} members {{ "{tap}" . {mark} }}\n'
    )


def mark_of(project: str) -> int:
    """A project as a packet mark."""
    return zlib.crc32(project.encode())
