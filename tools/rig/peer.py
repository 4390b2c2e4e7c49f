"""Peers that are not ours: a stock worker, a stock master, a local client, and bytes for hostile tests.

    with StockWorker(("127.0.0.1", port), KEY, "w1", root) as worker:
        worker.join()
        assert worker.check() == "applied"

    with StockMaster(root, KEY) as master:      # master.port; master.session("w1") once it has joined
        ...

    with LocalClient(node_root / "queue/cluster/c-internal.sock") as client:
        client.ask("get_nodes", "{}")

    with RawPeer(("127.0.0.1", port)) as peer:
        peer.send(huge_length()); assert peer.is_closed()

Written from wire.md alone and checked against tests/vectors; imports nothing of clusterd, hashing or ipc.
"""

import random
from pathlib import Path
from typing import ClassVar

from tools.rig.peer_base import ScriptedPeer, error_of, exception_json, wait_until
from tools.rig.peer_files import Files, scan
from tools.rig.peer_frames import (
    CHUNK,
    HEADER,
    CannotDecrypt,
    FrameReader,
    PeerError,
    PeerMessage,
    RawPeer,
    ScriptedLink,
    Seen,
    build_frames,
    command_field,
    dial,
    seal,
    unseal,
)
from tools.rig.peer_master import StockMaster, WorkerSession
from tools.rig.peer_worker import StockWorker

__all__ = [
    "CHUNK",
    "HEADER",
    "CannotDecrypt",
    "Files",
    "FrameReader",
    "LocalClient",
    "PeerError",
    "PeerMessage",
    "RawPeer",
    "ScriptedLink",
    "ScriptedPeer",
    "Seen",
    "StockMaster",
    "StockWorker",
    "WorkerSession",
    "build_frames",
    "command_field",
    "dial",
    "divided_without_end",
    "error_of",
    "exception_json",
    "garbage",
    "half_header",
    "huge_length",
    "scan",
    "seal",
    "unseal",
    "wait_until",
]


class LocalClient(ScriptedPeer):
    """A client of a node's local socket (wire.md appendix A): no encryption, no hello.

    `ask` is one request and its response. Later answers (`dapi_res`, `control_res`, `ok` and `err` of sendsync) arrive
    as requests of the server: `answer_of` waits for one and returns its content, or that of the string that it names.
    """

    commands: ClassVar[dict[str, str]] = ScriptedPeer.commands | dict.fromkeys(
        ("dapi_res", "dapi_err", "control_res", "send_f_res", "ok", "err"), "_on_later"
    )

    def __init__(self, path: Path | str, timeout_s: float = 10.0) -> None:
        super().__init__(dial(str(path), timeout_s), None, Path(path).parent, "")
        self.link.start()

    def ask(self, command: str, payload: bytes | str = b"", timeout_s: float = 60.0) -> PeerMessage:
        return self.link.ask(command, payload, timeout_s)

    def answer_of(self, command: str, timeout_s: float = 60.0) -> bytes:
        """Returns the content of the first later answer under `command`; raises PeerError when none arrives in time."""
        seen = self.link.wait_for(lambda one: not one.sent and one.is_request and one.command == command, timeout_s)
        return self.take_string(seen.payload.decode()) if command == "dapi_res" else seen.payload

    def _on_later(self, payload: bytes) -> bytes:
        return b"Thanks"

    def __enter__(self) -> "LocalClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def huge_length(length: int = 0xFFFFFFFF, command: bytes = b"hello") -> bytes:
    """Returns a header that announces a body of 4 GiB."""
    return HEADER.pack(1, length, command_field(command, False, False))


def half_header() -> bytes:
    """Returns the first bytes of a header; the rest never follows."""
    return huge_length(100)[:11]


def garbage(size: int, seed: int = 1) -> bytes:
    """Returns meaningless bytes, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def divided_without_end(pieces: int, size: int, counter: int = 7) -> list[bytes]:
    """Returns frames of a divided message without its last piece."""
    frame = HEADER.pack(counter, size, command_field(b"echo", True, False)) + b"A" * size
    return [frame] * pieces
