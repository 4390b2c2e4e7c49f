"""Frames, seals and one connection of the cluster protocol: an independent implementation of wire.md sections 1 to 3.

Imports nothing of clusterd, like the other peer modules, so that they can disagree with it. Blocking sockets and one
reader thread per connection: test equipment puts simplicity before speed. Every wait has a deadline.
"""

import base64
import contextlib
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, hmac, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HEADER = struct.Struct("!2I12s")
CHUNK = 5 * 1024 * 1024
"""Largest plaintext of one frame, and the size in bytes of each piece but the last of a divided message (2.4)."""
REQUEST_TIMEOUT_S = 60.0
RESPONSES = (b"ok", b"err", b"ok-m", b"ok-c")
KEPT_BYTES = 65536
"""Bytes of each payload that a connection's record keeps."""


class PeerError(Exception):
    """The other side broke the protocol, closed, or did not answer in time; the text tells which."""


class CannotDecrypt(PeerError):
    """A body is not a token of this key: error 3025, fatal for the connection."""


def seal(key: str, plaintext: bytes, at: int | None = None, iv: bytes | None = None) -> bytes:
    """Builds one Fernet token (1.2). `at` (seconds since 1970) and `iv` (16 bytes) make it reproducible."""
    raw = key.encode()
    stamp = int(time.time()) if at is None else at
    vector = os.urandom(16) if iv is None else iv
    pad = padding.PKCS7(128).padder()
    cipher = Cipher(algorithms.AES(raw[16:]), modes.CBC(vector)).encryptor()
    body = cipher.update(pad.update(plaintext) + pad.finalize()) + cipher.finalize()
    signed = b"\x80" + stamp.to_bytes(8, "big") + vector + body
    mac = hmac.HMAC(raw[:16], hashes.SHA256())
    mac.update(signed)
    return base64.urlsafe_b64encode(signed + mac.finalize())


def unseal(key: str, token: bytes) -> bytes:
    """Returns the plaintext of a token; raises CannotDecrypt."""
    try:
        return Fernet(base64.b64encode(key.encode())).decrypt(token)
    except InvalidToken:
        raise CannotDecrypt("Error 3025 - Could not decrypt message") from None


def command_field(command: bytes, divided: bool, last_piece: bool) -> bytes:
    """Returns the 12 bytes of 2.2. `last_piece`: the end of a divided message, whose flag byte is always a dash
    (2.4)."""
    if not 1 <= len(command) <= 11:
        raise ValueError(f"command of {len(command)} bytes")
    text = (command + b" ").ljust(12, b"-")
    if divided:
        return text[:11] + b"d"
    return text[:11] + b"-" if last_piece else text


def build_frames(
    command: bytes, counter: int, plaintext: bytes, key: str | None, token: bytes | None = None
) -> list[bytes]:
    """Returns the frames of one message, in order. `key` None: the local socket, no encryption. `token` replaces the
    sealing."""
    body = token if token is not None else (plaintext if key is None else seal(key, plaintext))
    if len(plaintext) <= CHUNK:
        return [HEADER.pack(counter, len(body), command_field(command, False, False)) + body]
    step = CHUNK - HEADER.size
    pieces = [body[start : start + step] for start in range(0, len(body), step)]
    return [
        HEADER.pack(counter, len(piece), command_field(command, number < len(pieces), number == len(pieces))) + piece
        for number, piece in enumerate(pieces, 1)
    ]


@dataclass(frozen=True)
class PeerMessage:
    """One message, complete and decrypted."""

    counter: int
    command: bytes
    payload: bytes


class FrameReader:
    """Turns bytes in any division into messages; collects divided messages by counter. Raises CannotDecrypt."""

    def __init__(self, key: str | None) -> None:
        self._key = key
        self._buffer = bytearray()
        self._pieces: dict[int, bytearray] = {}

    def feed(self, data: bytes) -> list[PeerMessage]:
        self._buffer += data
        out = []
        while len(self._buffer) >= HEADER.size:
            counter, length, text = HEADER.unpack_from(self._buffer)
            end = HEADER.size + length
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            if text[11:] == b"d":
                self._pieces.setdefault(counter, bytearray()).extend(body)
                continue
            if counter in self._pieces:
                body = bytes(self._pieces.pop(counter)) + body
            out.append(
                PeerMessage(counter, text[:11].split(b" ")[0], body if self._key is None else unseal(self._key, body))
            )
        return out


@dataclass(frozen=True)
class Seen:
    """One message in a connection's record. `at`: monotonic seconds. `payload` is cut at KEPT_BYTES, `size` is not."""

    at: float
    sent: bool
    is_request: bool
    counter: int
    command: str
    payload: bytes
    size: int


@dataclass
class _WaitingAnswer:
    done: threading.Event = field(default_factory=threading.Event)
    answer: PeerMessage | None = None


Handler = Callable[[PeerMessage], tuple[bytes, bytes] | None]
"""Called in the reader thread with each request; returns the response's command and payload, or None for no
response."""


class ScriptedLink:
    """One connection: sends requests and waits for their responses, passes requests to `handler`.

    Like a stock node it takes any frame with a counter that it waits for as the response (2.3), and aborts on a body
    that it cannot decrypt. `closed` is set when the connection is over; `failure` gives the reason if it was not a
    plain end.
    """

    def __init__(self, sock: socket.socket, key: str | None, handler: Handler, name: str = "peer") -> None:
        self.closed = threading.Event()
        self.failure: str | None = None
        self.record: list[Seen] = []
        self._sock = sock
        self._key = key
        self._handler = handler
        self._reader = FrameReader(key)
        self._counter = secrets.randbits(32)
        self._box: dict[int, _WaitingAnswer] = {}
        self.answered: set[bytes] = set()
        """Commands of the other side whose answer has been sent."""
        self._lock = threading.Lock()
        self._news = threading.Condition()
        sock.settimeout(REQUEST_TIMEOUT_S)
        self._thread = threading.Thread(target=self._read, name=f"{name}-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, command: bytes, counter: int, payload: bytes, is_request: bool) -> None:
        """Writes one message. Raises PeerError when the connection is gone or accepts no bytes for 20 s."""
        frames = build_frames(command, counter, payload, self._key)
        with self._lock:
            self._note(True, is_request, counter, command, payload)
            try:
                for frame in frames:
                    self._sock.sendall(frame)
            except OSError as error:
                raise PeerError(f"cannot send {command.decode()}: {error}") from error

    def ask(self, command: str, payload: bytes | str = b"", timeout_s: float = REQUEST_TIMEOUT_S) -> PeerMessage:
        """Sends a request and returns its response. Raises PeerError on a closed connection or no answer in time."""
        waiting = _WaitingAnswer()
        counter = self._next(waiting)
        try:
            self.send(command.encode(), counter, payload.encode() if isinstance(payload, str) else payload, True)
            if not waiting.done.wait(timeout_s):
                raise PeerError(f"no answer to {command} in {timeout_s:g} s")
        finally:
            self._box.pop(counter, None)
        if waiting.answer is None:
            raise PeerError(f"connection closed while waiting for the answer to {command}: {self.failure or 'end'}")
        return waiting.answer

    def tell(self, command: str, payload: bytes | str = b"") -> int:
        """Sends a request without waiting for its response; returns its counter."""
        counter = self._next(None)
        self.send(command.encode(), counter, payload.encode() if isinstance(payload, str) else payload, True)
        return counter

    def wait_for(self, condition: Callable[[Seen], bool], timeout_s: float = REQUEST_TIMEOUT_S, after: int = 0) -> Seen:
        """Returns the first entry of the record from index `after` on that fulfils `condition`; raises PeerError after
        the time."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            while True:
                for seen in self.record[after:]:
                    if condition(seen):
                        return seen
                left = deadline - time.monotonic()
                if left <= 0:
                    raise PeerError(f"not seen in {timeout_s:g} s")
                self._news.wait(min(left, 0.5))

    def close(self) -> None:
        """Ends the connection and its thread; safe to repeat."""
        self.closed.set()
        with contextlib.suppress(OSError):  # already gone: what close is for
            self._sock.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(REQUEST_TIMEOUT_S)
        self._sock.close()

    def _next(self, waiting: _WaitingAnswer | None) -> int:
        with self._lock:
            if self.closed.is_set():
                raise PeerError(f"connection is closed: {self.failure or 'end'}")
            self._counter = (self._counter + 1) % (1 << 32)
            if waiting is not None:
                self._box[self._counter] = waiting
            return self._counter

    def _note(self, sent: bool, is_request: bool, counter: int, command: bytes, payload: bytes) -> None:
        seen = Seen(
            time.monotonic(),
            sent,
            is_request,
            counter,
            command.decode(errors="replace"),
            payload[:KEPT_BYTES],
            len(payload),
        )
        with self._news:
            self.record.append(seen)
            self._news.notify_all()

    def _read(self) -> None:
        try:
            while not self.closed.is_set():
                try:
                    data = self._sock.recv(262144)
                except TimeoutError:
                    continue
                if not data:
                    break
                for message in self._reader.feed(data):
                    self._dispatch(message)
        except (OSError, PeerError) as error:
            if not self.closed.is_set():
                self.failure = str(error)
        finally:
            with contextlib.suppress(OSError):  # the other side was faster
                self._sock.shutdown(socket.SHUT_RDWR)
            with self._lock:  # whoever asks later sees `closed`, whoever asked before is in the box
                self.closed.set()
            for waiting in list(self._box.values()):
                waiting.done.set()
            with self._news:
                self._news.notify_all()

    def _dispatch(self, message: PeerMessage) -> None:
        waiting = self._box.pop(message.counter, None)
        self._note(False, waiting is None, message.counter, message.command, message.payload)
        if waiting is not None:
            waiting.answer = message
            waiting.done.set()
            return
        answer = self._handler(message)
        if answer is not None:
            self.send(answer[0], message.counter, answer[1], False)
            self.answered.add(message.command)


class RawPeer:
    """A hostile or faulty peer: sends any bytes, without rules. `address`: (host, port) or the path of a unix
    socket."""

    def __init__(self, address: tuple[str, int] | str, timeout_s: float = 10.0) -> None:
        self.sock = dial(address, timeout_s)

    def send(self, data: bytes) -> None:
        """Writes all bytes. A connection that was closed meanwhile is not a failure; `is_closed` tells."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the refusal that hostile tests wait for
            self.sock.sendall(data)

    def send_pieces(self, data: bytes, size: int) -> None:
        """Writes in pieces of `size` bytes, each in a segment of its own."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            self.send(data[start : start + size])

    def read_messages(self, key: str | None, count: int, timeout_s: float = 10.0) -> list[PeerMessage]:
        """Reads until `count` messages are complete; returns fewer when the connection ends first. Raises PeerError
        after the time."""
        reader = FrameReader(key)
        out: list[PeerMessage] = []
        deadline = time.monotonic() + timeout_s
        while len(out) < count:
            data = self._receive(deadline)
            if not data:
                break
            out += reader.feed(data)
        return out

    def is_closed(self, timeout_s: float = 10.0) -> bool:
        """Waits for the other side to close, discarding what it still sends. Returns True once it has, False if it has
        not in time."""
        deadline = time.monotonic() + timeout_s
        try:
            while self._receive(deadline):
                pass
        except PeerError:
            return False
        return True

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise PeerError("nothing more in time")
        self.sock.settimeout(left)
        try:
            return self.sock.recv(65536)
        except TimeoutError:
            raise PeerError("nothing more in time") from None
        except ConnectionResetError:
            return b""


def dial(address: tuple[str, int] | str, timeout_s: float = 60.0) -> socket.socket:
    """Returns a connected socket. `address`: (host, port) or the path of a unix socket. Raises OSError."""
    if not isinstance(address, str):
        return socket.create_connection(address, timeout_s)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
