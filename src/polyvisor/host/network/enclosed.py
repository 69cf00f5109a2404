"""A machine's NAT in a network of its own, so that rules stand between them and this host, and none of them is on it.

`pasta` makes user and network namespace, and is the way out of them; inside there are `passt`, which speaks with the
machine as it does without, the packet filter, and the resolver that passt leads the machine's questions to. Nothing of
it needs rights on the host, and all of it ends with passt, which ends with the machine: passt is what the namespace's
first process waits for.

      machine ══ passt ── filter ── pasta ══ this host's sockets
                   └─ dnsmasq ─┘

The addresses inside are of a range that is never on any network (RFC 7335), but for the one that the machine knows as
its resolver's. That asks from an address of its own, or the machine could ask whom it asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

from polyvisor.host.network import egress, passt
from polyvisor.host.pids import Process, is_ours
from polyvisor.host.run import run
from polyvisor.host.spawn import spawn
from polyvisor.model.egress import EgressPolicy
from polyvisor.model.faults import Internal, Unavailable
from polyvisor.model.instance import Address
from polyvisor.ports.hypervisor import Enclosure, UserNic

TABLE = "egress"
DEVICE = "way0"
_HERE, _PREFIX, _BEYOND, _NAMES = "192.0.0.2", 29, "192.0.0.1", "192.0.0.3"
_ASKS = "192.0.0.5"
_UPSTREAM = f"{_NAMES}@{_ASKS}"
_MARK = "polyvisor-egress-"
OPENER, OPENER_MARK = (_HERE, 8443), 0x7076
"""Where what the machine says at port 443 is led to, if it uses credentials; and what is on packets of who listens
there, which go on as they are."""
_LIMIT = 20.0
_TUN = Path("/dev/net/tun")
# A device node that this user may open; only what is begun here sees it.
_WITH_TUN = 'mount -t tmpfs -o mode=755,size=64k none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec "$@"'
# The rules come first: nothing passes without them. The resolver begins anew whenever it has ended, as it is told.
_INSIDE = f"""
ip addr add {_ASKS}/32 dev lo && ip addr add $3/32 dev {DEVICE} && nft -f /proc/self/fd/$1 || exit 1
answer() {{ while :; do dnsmasq --no-daemon --conf-file=- < /proc/self/fd/$1; sleep 0.1; done }}
answer $2 &
shift 3
"$@" &
wait $!
"""
_RESOLVER = 5  # which word of the shell's is the descriptor that tells the resolver


def filled(policy: EgressPolicy | None, facts: egress.Facts, gone: tuple[str, ...] = ()) -> str:
    """The filter, replacing the one that was there in one transaction; the addresses of names that stay, stay."""
    lines = egress.rules(policy, facts, "n")
    sets = egress.sets(policy, facts, "n")
    chains = "chain refuse { }; chain out { type filter hook output priority filter; policy drop; }; "
    chains += "chain from { type nat hook postrouting priority srcnat; }; "
    chains += "chain turn { type nat hook output priority -100; };"
    words = f"table inet {TABLE} {{ {chains} }}\n"
    words += "".join(f"flush chain inet {TABLE} {chain}\n" for chain in ("refuse", "out", "from", "turn"))
    words += "".join(f"add {egress.declared(f'inet {TABLE} {name}')}\n" for name in sets)
    words += "".join(f"delete set inet {TABLE} {name}\n" for name in gone if name not in sets)
    asks = f"ip saddr {_ASKS} ip daddr {_NAMES} meta l4proto {{ tcp, udp }} th dport 53 accept"
    closed = [f"ip daddr {_HERE}/{_PREFIX} goto refuse"]
    # What was led there stays until it ends, whatever changes: who listens there asks what holds for each request.
    opener = f"ip daddr {OPENER[0]} tcp dport {OPENER[1]} ct status dnat accept"
    out = ['oifname "lo" accept', asks, opener, *closed, *lines]
    words += "".join(f"add rule inet {TABLE} out {line}\n" for line in out)
    words += "".join(f"add rule inet {TABLE} refuse {line}\n" for line in egress.REFUSE)
    if facts.opened:
        turned = f'oifname "{DEVICE}" meta mark != {OPENER_MARK:#x} tcp dport 443 ip daddr != {_HERE}/{_PREFIX}'
        words += f"add rule inet {TABLE} turn {turned} dnat ip to {OPENER[0]}:{OPENER[1]}\n"
    return words + f"add rule inet {TABLE} from ip saddr {_ASKS} snat ip to {_HERE}\n"


def enclosure(name: str, policy: EgressPolicy | None, facts: egress.Facts, answers: str) -> Enclosure:
    """What a machine starts with, whose resolver is at the address `answers`."""
    return Enclosure(_MARK + name, filled(policy, facts), _resolver(policy, facts, answers))


def sets(policy: EgressPolicy | None, facts: egress.Facts) -> list[str]:
    """The sets of addresses that are in it."""
    return egress.sets(policy, facts, "n")


def _resolver(policy: EgressPolicy | None, facts: egress.Facts, answers: str) -> str:
    lines = ["log-facility=/dev/null", "pid-file", f"listen-address={answers}", "port=53"]
    return egress.joined([*lines, *egress.resolver(policy, facts, "n", _UPSTREAM, TABLE)], "")


def argv(fds: tuple[int, ...], nic: UserNic, wanted: Enclosure, address: Address, way_out: str | None) -> list[str]:
    """The command line; `fds` are the machine's, the one where passt says that it is there, rules and resolver."""
    machine, told, rules, resolver = fds
    inner = [
        "passt", "--quiet", "--foreground", "--fd", str(machine), "--pid", f"/proc/self/fd/{told}",
        "--ipv4-only", "--address", address.ip, "--netmask", str(address.prefix), "--gateway", address.gateway,
        "--mac-addr", passt.MAC, "--no-map-gw", "--no-dhcp-search",
        "--dns", address.dns, "--interface", DEVICE, "--outbound-if4", DEVICE, *passt.ports(nic, named=True),
    ]  # fmt: skip
    return [
        "pasta", "--quiet", "--ipv4-only", "--config-net", "--ns-ifname", DEVICE, "--address", _HERE,
        "--netmask", str(_PREFIX), "--gateway", _BEYOND, "--no-map-gw", "--dns-forward", _NAMES,
        "--interface", way_out or "lo", "--outbound-if4", way_out or "lo",
        *(passt.ports(nic, named=False) or ["--tcp-ports", "none"]),
        "--tcp-ns", "none", "--udp-ns", "none",
        "--", "sh", "-c", _INSIDE, wanted.name, str(rules), str(resolver), address.dns, *inner,
    ]  # fmt: skip


def _as_user(uid: int | None) -> list[str]:
    """The wrapper that makes it that user's, who needs to be able to open what network devices are made by."""
    if uid is None:
        return []
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", "--inh-caps=-all"]
    if stat.S_IMODE(_TUN.stat().st_mode) & 0o006 == 0o006:
        return user
    return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _WITH_TUN, "sh", *user]


async def start(
    machine: int, nic: UserNic, wanted: Enclosure, address: Address, way_out: str | None, uid: int | None
) -> str:
    """All of it, listening at its ports. What it said when it did not come to be; empty: it did."""
    pid, said = await asyncio.to_thread(_start, machine, nic, wanted, address, way_out, uid)
    if not said:
        with contextlib.suppress(ProcessLookupError):
            Process(pid)  # or it would stay as a zombie
    return said


def _start(
    machine: int, nic: UserNic, wanted: Enclosure, address: Address, way_out: str | None, uid: int | None
) -> tuple[int, str]:
    hears, told = os.pipe()
    opened = [hears, told]
    try:
        if uid is not None:
            os.fchown(told, uid, uid)  # passt opens it anew, by its number
        texts = [_text(words) for words in (wanted.rules, wanted.resolver)]
        opened += texts
        opened.append(log := os.memfd_create("log"))
        fds = (machine, told, texts[0], texts[1])
        line = [*_as_user(uid), *argv(fds, nic, wanted, address, way_out)]
        pid = spawn(line, fds=fds, output=log)
        os.close(told)
        opened.remove(told)
        if os.read(hears, 16):
            return pid, ""
        with contextlib.suppress(ProcessLookupError):  # what it has begun may wait for it for ever
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return pid, os.pread(log, 2000, 0).decode(errors="replace") or "it ended"
    finally:
        for fd in opened:
            os.close(fd)


def _text(words: str) -> int:
    """A descriptor that is read once."""
    fd = os.memfd_create("words")
    os.write(fd, words.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def found() -> dict[str, int]:
    """Every enclosure's first process, by name: of this user's, or where we are root of one that only we give."""
    those = ((called(pid), pid) for pid in (int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()))
    return {name: pid for name, pid in those if name}


def called(pid: int) -> str:
    """The name of the enclosure whose first process that is; empty: of none. Ids of processes are given again."""
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        words = (folder / "cmdline").read_text(errors="replace").split("\0")
        named = words[:2] == ["sh", "-c"] and words[3:4] and words[3].startswith(_MARK)
        if named and is_ours(pid) and _is_first(folder):  # its own children have the same words
            return words[3].removeprefix(_MARK)
    return ""


def _is_first(folder: Path) -> bool:
    ids = (folder / "status").read_text().partition("\nNSpid:")[2].split("\n")[0].split()
    return len(ids) > 1 and ids[-1] == "1"


async def change(
    pid: int, policy: EgressPolicy | None, facts: egress.Facts, answers: str, gone: tuple[str, ...]
) -> None:
    """Other rules, and another resolver, in the enclosure whose first process that is. The sets `gone` are not needed.

    :raise Unavailable: it is not there any more.
    """
    enter = ["nsenter", "--target", str(pid), "--user", "--net"]
    if os.geteuid() != 0:
        enter.append("--preserve-credentials")  # whoever made it is root in it
    try:
        await run([*enter, "nft", "-f", "-"], stdin=filled(policy, facts, gone).encode(), timeout=_LIMIT)
        await asyncio.to_thread(_tell, pid, _resolver(policy, facts, answers).encode())
    except (OSError, Internal) as error:
        words = getattr(error, "private", str(error))
        raise Unavailable("what the machine reaches cannot be changed now", private=words) from error


def _tell(pid: int, lines: bytes) -> None:
    """The resolver is the one that these lines describe."""
    fd = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[_RESOLVER]
    with open(f"/proc/{pid}/fd/{fd}", "r+b") as file:
        if file.read() == lines:
            return
        file.seek(0)
        file.write(lines)
        file.truncate()
    for shell in _children(pid):
        for child in _children(shell):
            if Path(f"/proc/{child}/comm").read_text() == "dnsmasq\n":
                os.kill(child, signal.SIGKILL)


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
