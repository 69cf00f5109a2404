"""nftables rules as text: pure, so that they can be read and tested without a kernel.

Two tables, both named after us. `inet`: NAT for the subnet, and what guests may reach: the world, but of the host only
DHCP, DNS and ping, and never the link-local range where metadata services live. `bridge`: a guest speaks with its own
MAC and IP address or not at all, and of other instances reaches only those of its own project. What it sends faster
than it may is dropped. What the host sends to a MAC address that the bridge has not heard of lately comes to nobody
else either. The way round, through the host as a router and back onto the bridge, is closed where frames
leave the bridge for the host: a rule on forwarded packets would also hit bridged ones where `br_netfilter` is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polyvisor.model.network import Network

TABLE = "polyvisor"
UPLOADS = "uploads"
CALLS = "calls"  # who sent TCP to whom: elements that go after some seconds
OURS = 0x70760001  # the mark of connections that this server makes for purposes of its own
ALONE = "alone"
ASKS = 0x70760002  # the mark of what a guest asks a resolver of its own
LED = 0x70760003  # the mark of what a guest says to others, and is led to who puts credentials in
_BURST = 256 * 1024  # bytes; a packet that is not cut yet has 64 KiB
_QUESTIONS = "rate over 100/second burst 500 packets"  # of one guest's to the resolver of all, which has a few thousand
_CALLS_TO_IT = 4  # connections likewise: it takes twenty


@dataclass(frozen=True, slots=True)
class Member:
    """One TAP: who may speak through it, and the mark that stands for its project. The rates are bytes a second, 0
    without limit: `upload` is a rule of ours, `download` waits in the queue of the device. `alone`: it begins
    nothing with other guests, and answers them."""

    tap: str
    mac: str
    ip: str
    mark: int
    download: int = 0
    upload: int = 0
    alone: bool = False

    def elements(self) -> tuple[tuple[str, str], ...]:
        """(set, element) of each set of the bridge table."""
        limit = ((UPLOADS, f'"{self.tap}" : "{self.tap}"'),) if self.upload else ()
        alone = ((ALONE, f'"{self.tap}"'),) if self.alone else ()
        return (
            ("macs", f'"{self.tap}" . {self.mac}'),
            ("ips", f'"{self.tap}" . {self.ip}'),
            ("projects", f'"{self.tap}" : {self.mark}'),
            ("members", f'"{self.tap}" . {self.mark}'),
            *limit,
            *alone,
        )

    def limit(self) -> str:
        """What its upload may be, as an object named after the TAP. The burst holds several of the largest packets, or
        none of them would ever pass."""
        return f"rate over {self.upload} bytes/second burst {burst(self.upload)} bytes;"


def burst(rate: int) -> int:
    """How many bytes may go at once."""
    return max(_BURST, rate // 16)


def table(network: Network, bridge: str, members: Sequence[Member]) -> str:
    """Both tables from nothing, replacing what was there in one transaction: no moment is without rules."""
    return _inet(network, bridge) + _bridge(network, members)


def _inet(network: Network, bridge: str) -> str:
    subnet = str(network.subnet)
    return f"""
table inet {TABLE} {{}}
delete table inet {TABLE}
table inet {TABLE} {{
  set asking {{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout 10s; }}
  set calling {{ type ipv4_addr; size 65535; flags dynamic; }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{bridge}" ip daddr {network.gateway} udp dport 53 add @asking {{ ip saddr limit {_QUESTIONS} }} drop
    iifname "{bridge}" ct state established,related accept
    iifname "{bridge}" ip daddr {network.gateway} tcp dport 53 ct state new \
      add @calling {{ ip saddr ct count over {_CALLS_TO_IT} }} drop
    iifname "{bridge}" ip daddr {{ {network.gateway}, 255.255.255.255 }} udp dport {{ 53, 67 }} accept
    iifname "{bridge}" ip daddr {network.gateway} tcp dport 53 accept
    iifname "{bridge}" ip daddr {network.gateway} ct mark {{ {ASKS}, {LED} }} accept
    iifname "{bridge}" ip daddr {network.gateway} icmp type echo-request accept
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
  chain output {{
    type filter hook output priority filter; policy accept;
    meta mark {OURS} ct mark set meta mark
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} ip daddr != {subnet} masquerade
  }}
}}
"""


def _bridge(network: Network, members: Sequence[Member]) -> str:
    filled = {name: _elements(name, members) for name in ("macs", "ips", "projects", "members", UPLOADS, ALONE)}
    limits = "".join(f"  limit {member.tap} {{ {member.limit()} }}\n" for member in members if member.upload)
    return f"""
table bridge {TABLE} {{}}
delete table bridge {TABLE}
table bridge {TABLE} {{
{limits}  set macs {{ type ifname . ether_addr; {filled["macs"]}}}
  set ips {{ type ifname . ipv4_addr; {filled["ips"]}}}
  map projects {{ type ifname : mark; {filled["projects"]}}}
  set members {{ type ifname . mark; {filled["members"]}}}
  map {UPLOADS} {{ type ifname : limit; {filled[UPLOADS]}}}
  set {CALLS} {{ type ipv4_addr . ipv4_addr . inet_service; size 65536; flags dynamic,timeout; timeout 5s; }}
  set {ALONE} {{ type ifname; {filled[ALONE]}}}
  set asked {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; size 65536; flags dynamic,timeout; timeout 1h; }}
  chain answers {{
    ether type arp return
    meta l4proto {{ tcp, udp }} ip saddr . ip daddr . ip protocol . th dport @asked return
    icmp type echo-reply return
    drop
  }}
  chain prerouting {{
    type filter hook prerouting priority filter; policy accept;
    iifname != "pv*" accept
    iifname . ether saddr != @macs drop
    ether type ip ip saddr 0.0.0.0 udp dport 67 accept
    ether type ip iifname . ip saddr != @ips drop
    ether type arp iifname . arp saddr ip != @ips drop
    ether type arp iifname . arp saddr ether != @macs drop
    ether type != {{ ip, arp }} drop
    ether type ip udp sport 67 drop
    limit name iifname map @{UPLOADS} drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "pv*" ip daddr {network.subnet} ip daddr != {network.gateway} drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname != "pv*" accept
    oifname != "pv*" accept
    meta mark set iifname map @projects
    iifname @{ALONE} jump answers
    oifname . meta mark @members oifname @{ALONE} meta l4proto {{ tcp, udp }} update @asked \
      {{ ip daddr . ip saddr . ip protocol . th sport }}
    oifname . meta mark @members ip protocol tcp update @{CALLS} {{ ip saddr . ip daddr . tcp dport }}
    oifname . meta mark @members accept
    drop
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "pv*" ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 oifname . ether daddr != @macs drop
  }}
}}
"""


def _elements(name: str, members: Iterable[Member]) -> str:
    found = [element for member in members for kind, element in member.elements() if kind == name]
    return f"elements = {{ {', '.join(found)} }}; " if found else ""


def guard(member: Member) -> str:
    """One TAP more; safe to repeat."""
    limit = f"add limit bridge {TABLE} {member.tap} {{ {member.limit()} }}\n" if member.upload else ""
    return limit + "".join(
        f"add element bridge {TABLE} {name} {{ {element} }}\n" for name, element in member.elements()
    )


def unguard(member: Member) -> str:
    """One TAP less. Added first: an element that is not there would keep all the others from being deleted."""
    gone = "".join(f"delete element bridge {TABLE} {name} {{ {element} }}\n" for name, element in member.elements())
    limit = f"delete limit bridge {TABLE} {member.tap}\n" if member.upload else ""
    return guard(member) + gone + limit
