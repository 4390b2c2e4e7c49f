"""A program's side of the local socket (dapi.md 1.12): one connection per question, blocking, with deadlines."""

import json
import random
import socket
import time
from typing import Any

from clusterd.errors import ClusterError
from clusterd.rundir import local_socket
from clusterd.wire.connection import Connection
from clusterd.wire.events import RequestReceived, ResponseReceived, SealedRequest, SealedResponse, Violation
from clusterd.wire.results import decode_err_payload

SENT_TO_MASTER = b"Sent request to master node"


class NotAnswering(Exception):
    """The node cannot be asked: nobody listens, or no answer came in time. The text says which."""


def ask(root: str, command: str, payload: bytes = b"", *, timeout_s: float) -> bytes:
    """The answer of the node at `root` to a local command; waits for a second message where the protocol has one.

    Raises NotAnswering, or the ClusterError that the node answered with."""
    deadline = time.monotonic() + timeout_s
    path = local_socket(root)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(path)
        except OSError as failure:
            raise NotAnswering(f"nobody answers at {path}: {failure.strerror or failure}") from failure
        connection = Connection("local-client", None, counter_start=random.getrandbits(32))
        _, frames = connection.request(command, payload, time.monotonic(), timeout_s)
        try:
            for frame in frames:
                sock.sendall(frame)
            return _receive(sock, connection, deadline)
        except (TimeoutError, OSError) as failure:
            raise NotAnswering(f"no answer to {command} from {path} within {timeout_s:g} s") from failure


def _receive(sock: socket.socket, connection: Connection, deadline: float) -> bytes:
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        data = sock.recv(262144)
        if not data:
            raise NotAnswering("the node closed the connection before it answered")
        for event in connection.receive(data):
            match event:
                case (
                    ResponseReceived(command=command, payload=content)
                    | RequestReceived(command=command, payload=content)
                ):
                    pass
                case SealedResponse(command=command, bodies=bodies) | SealedRequest(command=command, bodies=bodies):
                    content = b"".join(bytes(body.view) for body in bodies)
                case Violation(text=text):
                    raise NotAnswering(f"the node does not speak the protocol: {text}")
                case _:
                    continue
            if command == "err":
                raise decode_err_payload(content)
            if content != SENT_TO_MASTER:
                return content


def ask_json(root: str, command: str, payload: bytes = b"", *, timeout_s: float) -> Any:
    """Like `ask`, for answers that are JSON. An encoded exception in a second message is raised as well."""
    answer = json.loads(ask(root, command, payload, timeout_s=timeout_s))
    if isinstance(answer, dict) and "__wazuh_exception__" in answer:
        raise decode_err_payload(json.dumps(answer).encode())
    return answer


__all__ = ["ClusterError", "NotAnswering", "ask", "ask_json"]
