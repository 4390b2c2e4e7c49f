"""A local client's side of the socket: one connection per question, blocking, with deadlines. The protocol is in
clusterd/dapi/protocol/conversation.py."""

import json
import socket
import time
from typing import TYPE_CHECKING, Any

from clusterd.dapi.protocol.conversation import Conversation
from clusterd.errors import ClusterError
from clusterd.rundir import local_socket
from clusterd.unix_connect import connect
from clusterd.wire.commands import DAPI
from clusterd.wire.plain_connection import Misunderstood

if TYPE_CHECKING:
    from clusterd.dapi.protocol.request import ApiRequest

KEEPALIVE_S = 60.0
REPLY_S = 60.0
"""For the first message. While the role of a node changes it may take long (docs/ha.md)."""
ANSWER_S = 200.0


class NotAnswering(Exception):
    """The node cannot be asked: no process listens, or no answer arrived in time. The text tells which."""


class NotRunning(NotAnswering):
    """There is no node that could be asked."""


def ask(root: str, command: str, payload: bytes = b"", *, timeout_s: float, reply_s: float | None = None) -> bytes:
    """Returns the answer of the node at `root` to a local command; waits for a second message where the protocol has
    one. `reply_s`: how long for the first one (REPLY_S).

    Raises NotAnswering, or the ClusterError that the node answered with."""
    began = time.monotonic()
    path = local_socket(root)
    reply_s = min(timeout_s, REPLY_S if reply_s is None else reply_s)
    conversation = Conversation(command, payload)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            connect(sock, path, reply_s)
        except OSError as failure:
            raise _nobody(root, path, failure) from failure
        try:
            for frame in conversation.begin():
                sock.sendall(frame)
            _converse(sock, conversation, began, timeout_s, reply_s)
        except TimeoutError as failure:
            limit_s = timeout_s if conversation.replied else reply_s
            raise NotAnswering(f"no answer to {command} from {path} within {limit_s:g} s") from failure
        except OSError as failure:
            raise NotAnswering(f"the connection to {path} broke: {failure.strerror or failure}") from failure
        except Misunderstood as failure:
            raise NotAnswering(f"the node does not speak the protocol: {failure}") from None
    if conversation.failure is not None:
        raise conversation.failure
    assert conversation.answer is not None
    return conversation.answer


def _nobody(root: str, path: str, failure: OSError) -> NotAnswering:
    if isinstance(failure, FileNotFoundError | ConnectionRefusedError):
        from clusterd.status.absence import is_running, not_running  # not for those who are answered

        if not is_running(root):
            return NotRunning(not_running(root))
    return NotAnswering(f"nobody answers at {path}: {failure.strerror or failure}")


def _converse(sock: socket.socket, conversation: Conversation, began: float, timeout_s: float, reply_s: float) -> None:
    """Runs the conversation until its outcome is known. Raises TimeoutError, OSError, NotAnswering, Misunderstood."""
    next_keepalive = began + KEEPALIVE_S
    while not conversation.is_over:
        now = time.monotonic()
        ends = began + (timeout_s if conversation.replied else reply_s)
        if now >= ends:
            raise TimeoutError
        if now >= next_keepalive:
            next_keepalive = now + KEEPALIVE_S
            for frame in conversation.keepalive():
                sock.sendall(frame)
        sock.settimeout(min(ends, next_keepalive) - now)
        try:
            data = sock.recv(262144)
        except TimeoutError:
            continue
        if not data:
            raise NotAnswering("the node closed the connection before it answered")
        sock.settimeout(timeout_s)
        for frame in conversation.receive(data):
            sock.sendall(frame)


def ask_json(root: str, command: str, payload: bytes = b"", *, timeout_s: float, reply_s: float | None = None) -> Any:
    """Like `ask`, for answers in JSON. Also raises an encoded exception in a second message."""
    said = ask(root, command, payload, timeout_s=timeout_s, reply_s=reply_s)
    try:
        answer = json.loads(said)
    except (ValueError, RecursionError):
        raise NotAnswering(f"its answer to {command} is no JSON: is it of another version?") from None
    if isinstance(answer, dict) and "__wazuh_exception__" in answer:
        from clusterd.wire.results import decode_err_payload

        raise decode_err_payload(json.dumps(answer).encode())
    return answer


def call(root: str, request: "ApiRequest", *, timeout_s: float = ANSWER_S) -> Any:
    """Returns the result of a function of the distributed API, a WireResult. Raises NotAnswering, ClusterError."""
    from clusterd.dapi.protocol.request import encode_request  # not for questions without a function
    from clusterd.wire.results import WireException, load_answer

    answer = load_answer(ask(root, DAPI, encode_request(request), timeout_s=timeout_s))
    if isinstance(answer, WireException):
        raise answer
    return answer


__all__ = ["ClusterError", "NotAnswering", "ask", "ask_json", "call"]
