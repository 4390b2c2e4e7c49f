"""What counts as one caller and as one network where connections are counted."""

import functools
import ipaddress


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
