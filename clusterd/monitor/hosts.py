"""Which host a request names. A page of another site whose name was made to resolve to this machine (DNS rebinding)
must not read what the monitoring port shows."""

import ipaddress
import socket
from collections.abc import Callable, Iterable

from clusterd.listening.addresses import without_port


def host_check(names: Iterable[str]) -> Callable[[str], bool]:
    """Returns a function that judges the Host header. It accepts no header (not a browser), any IP address (no name
    resolves to it), localhost, this machine's own name, and `names`, each with any port."""
    known = {name.lower().rstrip(".") for name in ("localhost", socket.gethostname(), *names)}

    def is_ours(header: str) -> bool:
        if not header:
            return True
        host = without_port(header.strip().lower())
        return _is_address(host) or host.rstrip(".") in known

    return is_ours


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
