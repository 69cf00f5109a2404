"""Listening sockets are as asyncio needs them."""

from __future__ import annotations

import socket

import pytest

from polyvisor.model.faults import Busy, Invalid
from polyvisor.server.listeners import bind


def test_a_socket_says_that_it_is_tcp_so_that_no_answer_waits_for_an_acknowledgement() -> None:
    """asyncio sets TCP_NODELAY on sockets of protocol TCP only; without it small answers took 40 ms."""
    with bind("127.0.0.1:0", "server.listen") as sock:
        assert sock.proto == socket.IPPROTO_TCP


def test_a_taken_port_is_said_to_be_taken() -> None:
    with bind("127.0.0.1:0", "server.listen") as sock:
        sock.listen()
        with pytest.raises(Busy, match="in use"):
            bind(f"127.0.0.1:{sock.getsockname()[1]}", "server.listen")


@pytest.mark.parametrize("address", ["", "8080", "localhost", "127.0.0.1:", "127.0.0.1:99999", ":80", "a:b"])
def test_an_address_that_is_none_names_its_setting(address: str) -> None:
    with pytest.raises(Invalid) as refused:
        bind(address, "server.listen")
    assert refused.value.field == "server.listen"
