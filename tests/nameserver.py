"""A name server on loopback for tests: it says what it was told, and takes changes that are signed (RFC 2136)."""

from __future__ import annotations

import base64
import contextlib
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.update

ZONE = "example.com"
KEY_NAME = "changes"
SECRET = base64.b64encode(b"a secret of the name server's").decode()
_LONGEST = 65535


@dataclass
class NameServer:
    """`records` is (name, kind) to values, as a zone file has them; who asks for another kind of a name that has a
    CNAME gets that. `deaf`: nobody is answered."""

    host: str
    port: int = 0
    records: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    deaf: bool = False
    asked: list[str] = field(default_factory=list)

    def put(self, name: str, kind: str, value: str) -> None:
        """One more."""
        self.records.setdefault((name, kind), set()).add(value)

    def text(self, name: str) -> set[str]:
        """What its TXT records say."""
        return {value.strip('"') for value in self.records.get((name, "TXT"), set())}

    @property
    def credentials(self) -> dict[str, str]:
        """Of who may change it."""
        return {"server": f"{self.host}:{self.port}", "zone": ZONE, "key_name": KEY_NAME, "key_secret": SECRET}

    def answer(self, wire: bytes) -> bytes | None:
        """What is said to a message."""
        if self.deaf:
            return None
        keyring = {dns.name.from_text(KEY_NAME): dns.tsig.Key(KEY_NAME, SECRET)}
        try:
            query = dns.message.from_wire(wire, keyring=keyring)
        except (dns.message.UnknownTSIGKey, dns.tsig.BadSignature):
            query = dns.message.from_wire(wire, keyring=False)
            reply = dns.message.make_response(query)
            reply.set_rcode(dns.rcode.NOTAUTH)
            return reply.to_wire()
        reply = dns.message.make_response(query)
        if query.opcode() == dns.opcode.UPDATE:
            reply.set_rcode(self._change(query))
        else:
            self._say(query, reply)
        return reply.to_wire()

    def _say(self, query: dns.message.Message, reply: dns.message.Message) -> None:
        reply.flags |= dns.flags.AA
        name, kind = _bare(query.question[0].name), dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append(f"{kind} {name}")
        for _ in range(8):
            found = next((one for one in (kind, "CNAME") if self.records.get((name, one))), None)
            if found is None:
                break
            values = self.records[name, found]
            reply.answer.append(dns.rrset.from_text(dns.name.from_text(name), 1, "IN", found, *sorted(values)))
            if found == kind:
                return
            name = next(iter(values)).removesuffix(".")
        if not reply.answer and not any(one == name for one, _ in self.records):
            reply.set_rcode(dns.rcode.NXDOMAIN)

    def _change(self, query: dns.message.Message) -> dns.rcode.Rcode:
        assert isinstance(query, dns.update.UpdateMessage)
        if not query.had_tsig:
            return dns.rcode.REFUSED
        if _bare(query.zone[0].name) != ZONE:
            return dns.rcode.NOTZONE
        for rrset in query.prerequisite:
            if rrset.deleting == dns.rdataclass.NONE and any(name == _bare(rrset.name) for name, _ in self.records):
                return dns.rcode.YXDOMAIN
        for rrset in query.update:
            key = _bare(rrset.name), dns.rdatatype.to_text(rrset.rdtype)
            values = {rdata.to_text() for rdata in rrset}
            if rrset.deleting == dns.rdataclass.NONE:
                self.records[key] = self.records.get(key, set()) - values
                if not self.records[key]:
                    del self.records[key]
            else:
                self.records.setdefault(key, set()).update(values)
        return dns.rcode.NOERROR


def _bare(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


@contextmanager
def name_server(host: str = "127.0.0.1") -> Iterator[NameServer]:
    """One that runs, over UDP and TCP at one port."""
    found = NameServer(host)

    class Udp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            wire, sock = self.request
            if (said := found.answer(wire)) is not None:
                sock.sendto(said, self.client_address)

    class Tcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = int.from_bytes(self.rfile.read(2), "big")
            if (said := found.answer(self.rfile.read(length))) is not None:
                self.wfile.write(len(said).to_bytes(2, "big") + said)

    with contextlib.ExitStack() as stack:
        tcp, udp = _bound(host, Tcp, Udp)
        found.port = tcp.server_address[1]
        for server in (tcp, udp):
            stack.enter_context(server)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield found


def _bound(host: str, tcp_handler: Any, udp_handler: Any) -> tuple[socketserver.TCPServer, socketserver.UDPServer]:
    """Both at one port, which another process may have for one of them."""
    for _ in range(50):
        tcp = socketserver.ThreadingTCPServer((host, 0), tcp_handler, bind_and_activate=True)
        tcp.daemon_threads = True
        try:
            return tcp, socketserver.UDPServer((host, tcp.server_address[1]), udp_handler)
        except OSError:
            tcp.server_close()
    raise AssertionError("no port is free for both")


__all__ = ["KEY_NAME", "SECRET", "ZONE", "NameServer", "name_server"]
