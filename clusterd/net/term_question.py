"""Asks a node for its term, once and blocking, and tells it ours: the command `term`, which needs no hello."""

import contextlib
import random
import socket
import time

import msgspec

from clusterd.errors import ClusterError
from clusterd.listening.addresses import look_up
from clusterd.net.dial import Address
from clusterd.net.tls import client_context
from clusterd.settings import Settings
from clusterd.wire import commands
from clusterd.wire.connection import Connection
from clusterd.wire.events import ResponseReceived, Violation
from clusterd.wire.seal import Sealer
from clusterd.wire.terms import TermNote, build_term, parse_term


class TermAnswer(msgspec.Struct, frozen=True):
    """`kind`: `known` (`note` has it), `unknown` (a node with our key that knows no terms: stock, or older), `key` (it
    closed the connection, or has another key), `silent` (it took the connection and said nothing), `closed` (nobody
    listens), `address` (no such host, or no way there). `text` is for people."""

    kind: str
    text: str = ""
    note: TermNote | None = None


def ask_term(settings: Settings, address: Address, own: TermNote, timeout_s: float) -> TermAnswer:
    """Every address of the host is tried until one takes the connection."""
    try:
        found = look_up(address.host, address.port)
    except OSError as problem:
        return TermAnswer("address", f"{address.host} has no address: {problem.strerror or problem}")
    last = TermAnswer("address", f"{address} has no address")
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(timeout_s)
            try:
                sock.connect(where)
            except ConnectionRefusedError:
                last = TermAnswer("closed", f"nobody listens at {address}")
                continue
            except OSError as problem:
                last = TermAnswer("address", f"{address}: {problem.strerror or problem}")
                continue
            return _converse(settings, address, sock, own, timeout_s)
    return last


def _converse(settings: Settings, address: Address, sock: socket.socket, own: TermNote, timeout_s: float) -> TermAnswer:
    connection = Connection("worker", Sealer(settings.cluster.key.value), counter_start=random.getrandbits(31))
    deadline = time.monotonic() + timeout_s
    _, frames = connection.request(commands.TERM, build_term(own), time.monotonic(), timeout_s)
    other = TermAnswer("key", f"{address} answers and has another cluster key, or is no cluster port")
    try:
        context = client_context(settings)
        with contextlib.ExitStack() as cleanup:
            if context is not None:
                name = settings.clusterd.tls.server_name or address.host
                sock = cleanup.enter_context(context.wrap_socket(sock, server_hostname=name))
            for frame in frames:
                sock.sendall(frame)
            while True:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError  # also of one that sends a byte now and then
                sock.settimeout(left_s)
                data = sock.recv(65536)
                if not data:
                    return other
                for event in connection.receive(data):
                    match event:
                        case ResponseReceived(command=commands.OK, payload=content):
                            return TermAnswer("known", "", parse_term(content, settings.cluster.name))
                        case ResponseReceived():
                            return TermAnswer(
                                "unknown", f"{address} answers and knows no terms: a stock node, or older"
                            )
                        case Violation():
                            return other
    except TimeoutError:
        return TermAnswer("silent", f"{address} takes the connection and says nothing for {timeout_s:g} s")
    except (OSError, ClusterError) as problem:
        return TermAnswer("key", f"{other.text} ({problem})")
