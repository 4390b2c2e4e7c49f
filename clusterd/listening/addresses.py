"""Addresses: of a host's name, and what counts as one caller and as one network where connections are counted."""

import asyncio
import errno
import functools
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Found = tuple[int, int, int, str, Any]
"""Family, kind, protocol, canonical name, address."""


def look_up(host: str, port: int, *, kind: int = socket.SOCK_STREAM, flags: int = 0) -> list[Found]:
    """The addresses of a host. Blocking. Raises OSError, also for a text that can be no name, like `10.0.0..1`."""
    with _no_name_is_an_oserror():
        return [*socket.getaddrinfo(host, port, type=kind, flags=flags)]


async def look_up_soon(host: str, port: int, *, flags: int = 0) -> list[Found]:
    """The same for stream sockets, without blocking the loop."""
    if "%" in host:  # a number, so it does not block; uvloop's forgets the interface of a link-local address
        return look_up(host, port, flags=flags | socket.AI_NUMERICHOST)
    with _no_name_is_an_oserror():
        loop = asyncio.get_running_loop()
        return [*await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)]


@contextmanager
def _no_name_is_an_oserror() -> Iterator[None]:
    try:
        yield
    except UnicodeError as failure:  # an empty part, or one of more than 63 letters
        raise OSError(errno.EINVAL, "That is no name of a host") from failure


def without_port(node: str) -> str:
    """Returns the host of HOST, HOST:PORT, [V6]:PORT, [V6] or a bare V6 address."""
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.rpartition(":")[0] if node.count(":") == 1 else node


def plain(address: str) -> str:
    """IPv4 as such, also as a socket for both families names it (`::ffff:10.0.0.1`)."""
    head, _, last = address.rpartition(":")
    return last if head == "::ffff" and "." in last else address


def meant_by(host: str, found: list[Found]) -> str:
    """What a host's name was looked up to, for people; empty for an address."""
    addresses = sorted({str(one[4][0]) for one in found})
    return "" if _parsed(host) is not None or not addresses else f"{host} is {', '.join(addresses)}"


@functools.lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """One caller: the IPv4 address, or the IPv6 network of 64 bits, which one customer usually has whole."""
    parsed = _parsed(address)
    if parsed is None or isinstance(parsed, ipaddress.IPv4Address):
        return address if parsed is None else str(parsed)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


@functools.lru_cache(maxsize=4096)
def wide_network_of(address: str) -> str:
    """One network: 24 bits of IPv4, 64 of IPv6."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(ipaddress.ip_network((int(parsed) >> 8 << 8, 24)))
    return network_of(address)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what is no address, like the name of a local client. IPv4 mapped into IPv6 counts as IPv4."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped if mapped is not None else parsed
