"""For whom a request is: a page of another site whose name was made to lead to this machine (DNS rebinding) must not
read what the monitoring port shows."""

import ipaddress
import socket
from collections.abc import Callable, Iterable


def host_check(names: Iterable[str]) -> Callable[[str], bool]:
    """Returns what judges the Host header. Good are: no header (no browser), any IP address (no name can be bent to
    lead there), localhost, this machine's own name, and `names`. A port behind it does not matter."""
    known = {name.lower().rstrip(".") for name in ("localhost", socket.gethostname(), *names)}

    def is_ours(header: str) -> bool:
        if not header:
            return True
        host = _without_port(header.strip().lower())
        return _is_address(host) or host.rstrip(".") in known

    return is_ours


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
