"""Net's real process: forked, with a root of its own, a fake sync, and blocking clients that speak the protocol."""

import os
import signal
import socket
import ssl
import struct
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.logs import Log
from clusterd.net import process
from clusterd.rundir import board_path, local_socket, run_dir
from clusterd.settings import ClusterBlock, Secret, Settings
from ipc.arena import Arena
from ipc.board import Board, RowSnapshot
from tests.fakes.forks import die_with_parent
from tests.fakes.sync import FakeSync
from tools.rig.guard import guarded
from tools.rig.patience import Patience
from tools.rig.peer import FrameReader, PeerMessage, build_frames
from tools.rig.ports import free_port

KEY = "0123456789abcdef0123456789abcdef"
CLUSTER = "wazuh"
MASTER = "master-node"
VERSION = "4.14.1"
PATIENCE_S = 60.0
"""Nothing here takes long, except on a busy machine."""


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Polls `condition` and returns its first true value."""
    patience = Patience(timeout_s)
    while True:
        found = condition()
        if found:
            return found
        assert not patience.is_over(), f"not in {timeout_s} s: {what}"
        time.sleep(0.005)


def master_settings(root: str, **changes: Any) -> Settings:
    """`changes`: fields of Settings, and of `cluster`, `clusterd`, `limits`, `tls`, `master`, `communication`."""
    port = changes.pop("port", 0) or free_port()
    cluster = ClusterBlock(
        name=CLUSTER, node_name=MASTER, key=Secret(KEY.encode()), bind_addr="127.0.0.1", port=port, nodes=("127.0.0.1",)
    )
    return change(Settings(root, cluster=cluster, log_level=1), **changes)


def worker_settings(root: str, name: str, nodes: tuple[str, ...], **changes: Any) -> Settings:
    cluster = ClusterBlock(
        name=CLUSTER, node_name=name, node_type="worker", key=Secret(KEY.encode()), port=free_port(), nodes=nodes
    )
    settings = Settings(root, cluster=cluster, log_level=1)
    changes.setdefault("connection_retry_s", 0.2)
    return change(settings, **changes)


def change(settings: Settings, **changes: Any) -> Settings:
    """Puts each field where it belongs in the tree of settings."""
    for name, value in changes.items():
        if name == "cluster_key":
            cluster = msgspec.structs.replace(settings.cluster, key=Secret(value))
            settings = msgspec.structs.replace(settings, cluster=cluster)
            continue
        if name == "tls_key":
            tls = msgspec.structs.replace(settings.clusterd.tls, key=value)
            own = msgspec.structs.replace(settings.clusterd, tls=tls)
            settings = msgspec.structs.replace(settings, clusterd=own)
            continue
        if name in Settings.__struct_fields__:
            settings = msgspec.structs.replace(settings, **{name: value})
            continue
        for part in ("cluster", "worker", "master", "communication"):
            inner = getattr(settings, part)
            if name in inner.__struct_fields__:
                settings = msgspec.structs.replace(settings, **{part: msgspec.structs.replace(inner, **{name: value})})
                break
        else:
            own = settings.clusterd
            for part in ("limits", "tls"):
                inner = getattr(own, part)
                if name in inner.__struct_fields__:
                    own = msgspec.structs.replace(own, **{part: msgspec.structs.replace(inner, **{name: value})})
                    break
            else:
                own = msgspec.structs.replace(own, **{name: value})
            settings = msgspec.structs.replace(settings, clusterd=own)
    return settings


class NetNode:
    """One node's net process. `settings_of` makes the settings for the given root."""

    def __init__(self, settings_of: Callable[[str], Settings], slabs: tuple[int, int] = (8, 4)) -> None:
        self._place = guarded("net-", "/tmp")
        self.root = str(self._place.__enter__())
        for directory in ("var/run", "queue/cluster", "logs", "etc"):
            os.makedirs(f"{self.root}/{directory}")
        os.mkdir(run_dir(self.root), 0o700)
        self.settings = settings_of(self.root)
        self.arena = Arena(*slabs)
        self.board = Board.create(board_path(self.root))
        for name in ("net", "sync"):
            self.board.add_row(name)
        self.pid = 0
        self.sync: FakeSync | None = None
        self._clients: list[Talker] = []

    # ---- processes ---------------------------------------------------------------------------------------------------

    def start(self, *, with_sync: bool = True) -> "NetNode":
        if with_sync:
            self.start_sync()
        self.spawn()
        wait_until(lambda: self.row().state == "ready" or self.ended(), "net is ready")
        assert self.pid, f"net ended at once: {self.log()}"
        if self.sync is not None:
            self.sync.hello()
        return self

    def spawn(self) -> None:
        self.board.row("net").begin(0, self.row().incarnation + 1)
        self.pid = os.fork()
        if self.pid == 0:
            die_with_parent()
            status = 1
            try:
                # Closes what a process does not have after the supervisor's fork: sockets of others, above all the fake
                # sync's.
                os.closerange(3, 4096)
                log = Log(f"{self.root}/logs/cluster.log", self.settings.log_level)
                status = process.run(self.settings, self.arena, self.board, log)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        self.board.row("net").set_pid(self.pid)

    def start_sync(self) -> FakeSync:
        """Makes a sync process, or the next one; the board knows it before it sends anything."""
        if self.sync is not None:
            self.sync.close()
        incarnation = self.board.row("sync").snapshot().incarnation + 1
        self.board.row("sync").begin(1, incarnation)
        self.sync = FakeSync(self.root, incarnation)
        self.board.row("sync").set_ready()
        return self.sync

    def kill_sync(self) -> None:
        assert self.sync is not None
        self.sync.close()
        self.sync = None
        self.board.row("sync").set_down()

    def ended(self) -> int | None:
        """Returns how net's process ended, None while it runs."""
        if not self.pid:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def stop(self, number: int = signal.SIGTERM) -> int:
        os.kill(self.pid, number)
        patience = Patience(PATIENCE_S)
        while (code := self.ended()) is None:
            assert not patience.is_over(), "net does not stop"
            time.sleep(0.005)
        return code

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.sync is not None:
            self.sync.close()
        self.board.close()
        self.arena.close()
        self._place.__exit__(None, None, None)

    # ---- what is seen ------------------------------------------------------------------------------------------------

    def row(self) -> RowSnapshot:
        return self.board.row("net").snapshot()

    def counter(self, name: str) -> int:
        return self.row().counters[name]

    def log(self) -> str:
        try:
            with open(f"{self.root}/logs/cluster.log", encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def lines(self, text: str) -> list[str]:
        """Returns the log lines with this text, without their time."""
        return [line[20:] for line in self.log().splitlines() if text in line]

    def logged(self, text: str, timeout_s: float = PATIENCE_S) -> str:
        """Waits for the first line with this text and returns it."""
        lines: list[str] = wait_until(lambda: self.lines(text), f"a log line with {text!r} in {self.log()}", timeout_s)
        return lines[0]

    # ---- clients -----------------------------------------------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        return self.settings.cluster.bind_addr, self.settings.cluster.port

    def connect(self, **options: Any) -> "Talker":
        talker = Talker(socket.create_connection(self.address, timeout=PATIENCE_S), KEY, **options)
        self._clients.append(talker)
        return talker

    def join(self, name: str, **options: Any) -> "Talker":
        """Returns a connection whose hello was accepted."""
        talker = self.connect(**options)
        answer = talker.ask("hello", f"{name} {CLUSTER} worker {VERSION}")
        assert (answer.command, answer.payload) == (b"ok", f"Client {name} added".encode())
        return talker

    def local(self) -> "Talker":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE_S)
        sock.connect(local_socket(self.root))
        talker = Talker(sock, None)
        self._clients.append(talker)
        return talker


class Talker:
    """A blocking client: sends messages for the test and reads messages. `key` None: the local socket."""

    def __init__(self, sock: socket.socket, key: str | None, *, tls: ssl.SSLContext | None = None) -> None:
        self.sock = sock if tls is None else tls.wrap_socket(sock, server_hostname="localhost")
        self.key = key
        self._reader = FrameReader(key)
        self._messages: list[PeerMessage] = []
        self._counter = 1000

    def send(self, data: bytes) -> None:
        self.sock.settimeout(PATIENCE_S)  # a read before may have left a shorter one
        self.sock.sendall(data)

    def tell(self, command: str, payload: bytes | str = b"", *, counter: int | None = None) -> int:
        """Sends a request and returns its counter."""
        self._counter += 1
        number = self._counter if counter is None else counter
        plain = payload.encode() if isinstance(payload, str) else payload
        for frame in build_frames(command.encode(), number, plain, self.key):
            self.send(frame)
        return number

    def respond(self, request: PeerMessage, command: str, payload: bytes | str = b"") -> None:
        self.tell(command, payload, counter=request.counter)

    def read(self, timeout_s: float = PATIENCE_S) -> PeerMessage:
        """Returns the next message. Raises ConnectionError when the connection is closed."""
        deadline = time.monotonic() + timeout_s
        while not self._messages:
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = self.sock.recv(1 << 20)
            if not data:
                raise ConnectionResetError("closed")
            self._messages += self._reader.feed(data)
        return self._messages.pop(0)

    def answer_to(self, counter: int, timeout_s: float = PATIENCE_S) -> PeerMessage:
        kept = []
        while (message := self.read(timeout_s)).counter != counter:
            kept.append(message)
        self._messages = kept + self._messages
        return message

    def ask(self, command: str, payload: bytes | str = b"", timeout_s: float = PATIENCE_S) -> PeerMessage:
        return self.answer_to(self.tell(command, payload), timeout_s)

    def is_closed(self, timeout_s: float = PATIENCE_S) -> bool:
        """Returns whether the other side closes within this time; data that arrives before is discarded."""
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self.sock.settimeout(max(0.001, deadline - time.monotonic()))
                if not self.sock.recv(1 << 16):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True

    def reset(self) -> None:
        """Closes with RST, as a process does that dies with unread data."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()
