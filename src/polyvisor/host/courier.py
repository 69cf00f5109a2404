"""Posts letters to addresses that callers named, and lets none of them lead where its caller could not go.

A name is looked up once. Each address that it stands for is judged, and one of these is connected to: what the name
stands for a moment later does not matter. TLS still asks for a certificate of the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Sequence

import httpx

from polyvisor.host.images.addresses import addresses, public_addresses
from polyvisor.model.faults import Invalid
from polyvisor.model.letter import Letter, Receipt

logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each request, with a URL that may hold a secret
_LONGEST = 2048
_PORTS = {"http": 80, "https": 443}
_TRIES = 3  # of the addresses of one name


class HttpCourier:
    """See `ports.courier.Courier`."""

    def __init__(self) -> None:
        self._tls: ssl.SSLContext | None = None

    async def check(self, url: str, *, private: bool) -> None:
        """Look it up as for a letter."""
        await _judged(_parsed(url), private=private)

    async def post(self, letter: Letter, *, private: bool) -> Receipt:
        """The same, and connect."""
        try:
            async with asyncio.timeout(letter.timeout):
                url = _parsed(letter.url)
                return await self._post(letter, url, await _judged(url, private=private))
        except Invalid as fault:
            return Receipt(error=fault.public)
        except (TimeoutError, httpx.TimeoutException):
            return Receipt(error=f"no answer within {letter.timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Receipt(error=f"{type(error).__name__}: {error}"[:300])

    async def _post(self, letter: Letter, url: httpx.URL, found: Sequence[str]) -> Receipt:
        """By the first address that takes a connection."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        client = httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False, timeout=letter.timeout)
        headers = {**letter.headers, "Host": url.netloc.decode("ascii")}
        more = {} if _is_address(_host(url)) else {"sni_hostname": _host(url)}
        async with client:
            for number, address in enumerate(found, 1):
                there = url.copy_with(host=address)
                try:
                    async with client.stream(
                        "POST", there, content=letter.body, headers=headers, extensions=more
                    ) as answer:
                        return Receipt(answer.status_code)
                except httpx.ConnectError:
                    if number == len(found):
                        raise
        raise AssertionError("there is an address at least")


def _parsed(url: str) -> httpx.URL:
    """:raise Invalid: it is no URL that is posted to."""
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Invalid("url: must be an http or https URL", field="url") from error
    if len(url) > _LONGEST or found.scheme not in _PORTS or not found.host or found.port == 0:
        raise Invalid("url: must be an http or https URL", field="url")
    if found.userinfo or found.fragment:
        raise Invalid("url: must have no user, password or fragment", field="url")
    return found


async def _judged(url: httpx.URL, *, private: bool) -> Sequence[str]:
    """The addresses to connect to. What is wrong is not told more closely: names here are nobody's business.

    :raise Invalid: there is none, or one of them is not for everybody.
    """
    look = addresses if private else public_addresses
    found = await look(_host(url), url.port or _PORTS[url.scheme])
    if not found or (not private and any(map(is_ours, found))):
        kind = "an address" if private else "public addresses alone"
        raise Invalid(f"url: its host must stand for {kind}", field="url")
    return found[:_TRIES]


def is_ours(address: str) -> bool:
    """Whether it is this host's: what listens there may be closed to the world, and open to who comes from here. The
    kernel says so without a word to anybody: the way to an address of ours begins at it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError:
            return False
        return str(sock.getsockname()[0]) == address


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
