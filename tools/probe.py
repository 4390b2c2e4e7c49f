"""Tries a master's port as a worker would, once and blocking: address, TLS, key, name, cluster, version."""

import contextlib
import errno
import random
import socket
import ssl
import time
from typing import Any

import msgspec

from clusterd.errors import ClusterError
from clusterd.listening.addresses import Found, look_up, meant_by
from clusterd.net.dial import OURS, Address
from clusterd.net.tls import client_context
from clusterd.settings import Settings
from clusterd.wire import commands
from clusterd.wire.connection import Connection
from clusterd.wire.events import ResponseReceived, Violation
from clusterd.wire.foreign import foreign_text, protocol_of
from clusterd.wire.payloads import Hello, build_hello
from clusterd.wire.results import decode_err_payload
from clusterd.wire.seal import Sealer
from clusterd.wire.terms import read_refusal

PROBE_S = 8.0
ASK_S = 2.0
NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


class Probed(msgspec.Struct, frozen=True):
    """The result. `kind`: ok, refused (by the master, with its `code`), led (by another node, which it names), or the
    stage that failed: address, route, port, time-out, tls, certificate, silent, key, protocol."""

    kind: str
    text: str = ""
    code: int = 0


def probe(settings: Settings, address: Address, timeout_s: float = PROBE_S) -> Probed:
    """Sends hello under this node's name, and hangs up. Only for a node that does not run, or has no link to its
    master, because the master takes the probe for that node."""
    try:
        found = look_up(address.host, address.port)
    except OSError as problem:
        return Probed("address", f"{address.host} has no address: {problem.strerror or problem}")
    result, meant = _probe(settings, address, found, timeout_s), meant_by(address.host, found)
    # Often the name means another machine than one thinks, or means it no more.
    return (
        result if result.kind == "ok" or not meant else msgspec.structs.replace(result, text=f"{result.text} ({meant})")
    )


def _probe(settings: Settings, address: Address, found: list[Found], timeout_s: float) -> Probed:
    failure = Probed("port", "no address")
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(timeout_s)
            try:
                sock.connect(where)
            except TimeoutError:
                failure = Probed(
                    "time-out", f"{address} does not answer within {timeout_s:g} s: a firewall, or it is off"
                )
                continue
            except OSError as problem:
                stage = "route" if problem.errno in NO_ROUTE else "port"
                failure = Probed(stage, f"{address}: {problem.strerror or problem}")
                continue
            found_out = _converse(settings, address, sock, timeout_s)
        # With TLS it has spoken TLS: whoever asks without is told just that, whatever it speaks behind.
        if found_out.kind == "silent" and not settings.clusterd.tls.enabled:
            return _other_protocol(address, where, family) or found_out
        if found_out.kind == "key" and not settings.clusterd.tls.enabled and _speaks_tls(where, family):
            return Probed("tls", f"{address} speaks TLS, and clusterd.tls is off on this node")
        return found_out
    return failure


def _speaks_tls(where: Any, family: int) -> bool:
    """Whoever expects TLS closes a connection that begins otherwise, as one with another key does."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(ASK_S)
        sock.connect(where)
        with context.wrap_socket(sock):
            return True
    return False


def _other_protocol(address: Address, where: Any, family: int) -> Probed | None:
    """Asks in HTTP whoever is silent: such a server waits for the end of a line, which hello has not."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(ASK_S)
        sock.connect(where)
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        spoken = protocol_of(sock.recv(1024))
        if spoken is not None:
            return Probed("protocol", f"{address}: {foreign_text(spoken, is_ours=False)}")
    return None


def _converse(settings: Settings, address: Address, sock: socket.socket, timeout_s: float) -> Probed:
    try:
        context = client_context(settings)
        if context is not None:
            name = settings.clusterd.tls.server_name or address.host
            with context.wrap_socket(sock, server_hostname=name) as secure:
                return _hello(settings, address, secure, timeout_s)
    except TimeoutError:
        return Probed("silent", f"{address} takes the connection and does not answer the TLS handshake")
    except ssl.SSLCertVerificationError as problem:
        return Probed("certificate", f"the certificate of {address} is not accepted here: {problem.verify_message}")
    except ssl.SSLError as problem:
        return Probed("tls", f"no TLS with {address}: {problem.reason or problem}")
    except OSError as problem:
        return Probed("tls", f"no TLS with {address}: {problem.strerror or problem}")
    return _hello(settings, address, sock, timeout_s)


def _hello(settings: Settings, address: Address, sock: socket.socket, timeout_s: float) -> Probed:
    cluster = settings.cluster
    connection = Connection("worker", Sealer(cluster.key.value), counter_start=random.getrandbits(31))
    hello = Hello(cluster.node_name, cluster.name, cluster.node_type, settings.clusterd.version)
    deadline = time.monotonic() + timeout_s
    _, frames = connection.request(commands.HELLO, build_hello(hello), time.monotonic(), timeout_s)
    closed = f"{address} closed the connection instead of answering hello: it has another cluster key, or is no master"
    try:
        for frame in frames:
            sock.sendall(frame)
        while True:
            sock.settimeout(max(0.01, deadline - time.monotonic()))
            data = sock.recv(65536)
            if not data:
                return Probed("key", closed)
            for event in connection.receive(data):
                match event:
                    case ResponseReceived(command=commands.ERR, payload=content):
                        refusal = decode_err_payload(content)
                        ours = OURS.get(refusal.code, "").format(hello)
                        text = f"{address}: {refusal}" + (f" ({ours})" if ours else "")
                        return Probed("led" if read_refusal(refusal) else "refused", text, refusal.code)
                    case ResponseReceived():
                        return Probed("ok", f"{address} takes this node")
                    case Violation(code=3025):
                        return Probed("key", f"{address} has another cluster key")
                    case Violation(text=text):
                        return Probed("protocol", f"{address}: {text}")
    except TimeoutError:
        return Probed("silent", f"{address} takes the connection and does not answer hello within {timeout_s:g} s")
    except (OSError, ClusterError):
        return Probed("key", closed)
