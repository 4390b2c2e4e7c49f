"""authd on a worker: registrations go to the master's authd through the node's local socket (wdb.md 8.1, 9.2).

Stock answers 9015 instead. A request is sent again only while there is no link to the master: once it has gone out
nobody knows what became of it, and a second `add` would collide with the first.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable

import msgspec

from clusterd.errors import ClusterError
from clusterd.rundir import local_socket
from clusterd.settings import ForceRules
from clusterd.store.auth_request import WHO, AuthdError, answer_text, is_json, parse_request, text_of
from clusterd.store.jsontext import encode
from clusterd.unix_connect import connected
from clusterd.wire.commands import ERR, OK
from clusterd.wire.frame import HEADER_BYTES, build_header, parse_header
from clusterd.wire.results import decode_err_payload, shorten

NO_LINK = 3023
LINK_WAIT_S = 10.0
AGAIN_S = 1.0
CONNECT_S = 5.0
"""How long the node's local socket may have no room for a connection."""
SPREAD_S = 0.2
ANSWER_S = 210.0
"""A little more than the cluster itself waits (`timeout_dapi_request`), which then says so."""
UNDER_WAY = 64
LARGEST_ANSWER = 65536


class NotConnected(Exception):
    """The request did not go out: there is no link to the master at the moment."""


class Forwarder:
    """Answers requests of one node's authd socket."""

    def __init__(
        self,
        root: str,
        rules: Callable[[], ForceRules] = ForceRules,
        *,
        link_wait_s: float = LINK_WAIT_S,
        answer_s: Callable[[], float] = lambda: ANSWER_S,
    ) -> None:
        """`rules`: those of the node, which it shows and its master does not know; `link_wait_s`: how long a request
        waits for a link; `answer_s`: for the master's answer."""
        self._path = local_socket(root)
        self._rules = rules
        self._link_wait_s = link_wait_s
        self._answer_s = answer_s
        self._room = asyncio.Semaphore(UNDER_WAY)
        self._counters = itertools.count(1)
        self._no_link_until = 0.0

    async def answer(self, payload: bytes, program: str = "") -> bytes:
        """The answer of the master's authd as it came, or 9001 with the reason. `program`: who asks here; the master's
        journal has it."""
        text = text_of(payload)
        if not is_json(text):
            return answer_text(text, self._rules())
        try:
            parse_request(text)
        except AuthdError as refusal:
            return refusal.answer()
        message = msgspec.json.decode(text.encode(), type=dict[str, msgspec.Raw])
        if program:
            message.setdefault(WHO, msgspec.Raw(msgspec.json.encode(program)))
        request = encode({"daemon_name": "authd", "message": message})
        try:
            return await self._forward(request)
        except (ClusterError, OSError, EOFError, ValueError) as failure:
            return AuthdError(9001, _reason(failure)).answer()

    async def _forward(self, request: bytes) -> bytes:
        """Raises ClusterError, OSError, EOFError, ValueError."""
        until: float | None = None
        reason = "this worker is not connected to its master"
        while True:
            now = time.monotonic()
            pause_s = self._no_link_until - now
            if pause_s <= 0:
                try:
                    # Only who asks takes room: those who wait for a link must not make others wait twice.
                    async with self._room:
                        return await self._ask(request)
                except NotConnected as absence:
                    reason = str(absence)
                    # Whoever waits for a link leaves it to the first to find out, once a second.
                    self._no_link_until = time.monotonic() + AGAIN_S
                    continue
            # The time spent waiting for room, or for a master who is slow, is not time without a link.
            until = until or now + self._link_wait_s
            if now + pause_s < until:
                await asyncio.sleep(pause_s + random.uniform(0, SPREAD_S))
            else:
                raise ClusterError(NO_LINK, f"{reason}; tried for {self._link_wait_s:g} s, register again later")

    async def _ask(self, request: bytes) -> bytes:
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(sock=await connected(self._path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotConnected("the cluster process of this node does not listen") from None
        except OSError as failure:
            raise NotConnected(f"the cluster process of this node cannot be asked: {failure}") from failure
        answer_s = self._answer_s()
        try:
            async with asyncio.timeout(answer_s):
                writer.write(build_header(next(self._counters) & 0xFFFFFFFF, len(request), "sendsync") + request)
                await writer.drain()
                return await self._read(reader)
        except TimeoutError:
            raise ClusterError(1014, f"the master did not answer within {answer_s:g} s") from None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes:
        """The payload of the first `ok`; the server may say other things before. Raises NotConnected, ClusterError,
        EOFError."""
        while True:
            header = parse_header(await reader.readexactly(HEADER_BYTES))
            if header.length > LARGEST_ANSWER:
                raise ValueError(f"an answer of {header.length} bytes is longer than {LARGEST_ANSWER}")
            content = await reader.readexactly(header.length)
            if header.command == OK:
                if not content:
                    raise ValueError("the master's authd gave no answer; whether the agent was registered is not known")
                return content
            if header.command == ERR:
                error = decode_err_payload(content)
                if isinstance(error, ClusterError) and error.code == NO_LINK and _never_left(error):
                    raise NotConnected("this worker is not connected to its master")
                raise error


def _never_left(error: ClusterError) -> bool:
    """The local server refuses with a bare 3023 before it sends anything; once the request is out, the text says
    more."""
    return not error.extra


def _reason(failure: Exception) -> str:
    if isinstance(failure, asyncio.IncompleteReadError | ConnectionError):
        return "the cluster process ended before it had an answer; whether the agent was registered is not known"
    return shorten(str(failure))
