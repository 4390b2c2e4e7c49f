"""A stock worker: joins, checks, applies the master's packages, answers other requests as 4.14.1 does."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from tools.rig.patience import Patience
from tools.rig.peer_base import ScriptedPeer, error_of, exception_json
from tools.rig.peer_files import Files, apply, package_name, scan, write_package
from tools.rig.peer_frames import PeerError, PeerMessage, dial

Outcome = Literal["refused", "equal", "applied", "silent", "failed"]


class _Connection(ScriptedPeer):
    """The worker's end of one connection."""

    commands: ClassVar[dict[str, str]] = ScriptedPeer.commands | {
        "echo-m": "_on_echo_m",
        "syn_m_c": "_on_syn_m_c",
        "syn_m_c_ok": "_on_syn_m_c_ok",
        "syn_m_c_e": "file_arrived",
        "syn_m_c_r": "task_failed",
        "syn_g_m_w": "_on_syn_g_m_w",
        "syn_g_m_w_c": "_on_syn_g_m_w_c",
        "syn_m_a_e": "_on_agent_info",
        "syn_m_a_err": "_on_agent_info",
        "dapi": "_on_dapi",
        "dapi_res": "_on_forwarded",
        "sendsyn_res": "_on_forwarded",
        "dapi_err": "_on_dapi_err",
        "sendsyn_err": "_on_sendsyn_err",
    }

    def __init__(self, owner: "StockWorker") -> None:
        super().__init__(dial(owner.address), owner.key, owner.root, owner.name, owner.receive_timeout_s)
        self.owner = owner
        self.busy = False
        self.round_over = threading.Event()
        self.outcome: Outcome = "silent"
        self.link.start()

    def finish(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.busy = False
        self.round_over.set()

    def _on_echo_m(self, payload: bytes) -> tuple[bytes, bytes]:
        return b"ok-c", payload

    def _on_syn_m_c_ok(self, payload: bytes) -> bytes:
        self.finish("equal")
        return b"Thanks"

    def _on_syn_m_c(self, payload: bytes) -> bytes:
        self.busy = True
        task = self.expect_file()
        self.run_task(lambda: self._apply(task))
        return task.encode()

    def _apply(self, task: str) -> None:
        outcome: Outcome = "failed"
        try:
            metadata = self.await_package(task)
            if metadata is None:
                return
            directory = metadata.pop("")
            try:
                self.notes += apply(self.root, directory, metadata)
                self.owner.packages.append(metadata)
                outcome = "applied"
            finally:
                shutil.rmtree(directory, ignore_errors=True)
        except Exception as error:
            text = exception_json(1000, str(error), "WazuhInternalError")
            self.link.ask("syn_i_w_m_r", b"None " + text)
            raise
        finally:
            self.finish(outcome)

    def _on_syn_g_m_w(self, payload: bytes) -> bytes:
        self.run_task(lambda: self._agent_groups(payload.decode(), "syn_w_g_e"))
        return payload

    def _on_syn_g_m_w_c(self, payload: bytes) -> bytes:
        self.run_task(lambda: self._agent_groups(payload.decode(), "syn_wgc_e"))
        return payload

    def _agent_groups(self, name: str, report: str) -> None:
        groups = json.loads(self.take_string(name))
        self.owner.agent_groups.append(groups)
        result = {"updated_chunks": len(groups["chunks"]), "error_messages": [], "time_spent": 0.001}
        self.link.ask(report, json.dumps(result))

    def _on_agent_info(self, payload: bytes) -> bytes:
        self.owner.agent_info_results.append(payload.decode())
        return b"Thanks"

    def _on_dapi(self, payload: bytes) -> bytes:
        number, request = payload.decode().split(" ", 1)
        self.run_task(lambda: self._call(number, request))
        return b"Added request to API requests queue"

    def _call(self, number: str, request: str) -> None:
        try:
            answer = self.owner.api(json.loads(request))
        except Exception as error:
            self.link.ask("dapi_err", f"{number} {error}")
            raise
        self.link.ask("dapi_res", f"{number} {self.send_string(json.dumps(answer).encode())}")

    def _on_forwarded(self, payload: bytes) -> bytes:
        self.owner.forwarded.append(payload.decode())
        return b"Response forwarded to worker"

    def _on_dapi_err(self, payload: bytes) -> tuple[bytes, bytes]:
        return b"err", exception_json(3032, payload.decode().split(" ", 1)[0])

    def _on_sendsyn_err(self, payload: bytes) -> tuple[bytes, bytes]:
        return b"err", exception_json(1000, repr(payload.decode().split(" ", 1)[0]), "WazuhInternalError")


def _no_api(request: dict[str, Any]) -> object:
    raise PeerError(f"this worker answers no API request: {request.get('f')}")


class StockWorker:
    """A stock worker in `root`. Either drive it (`join`, `check`, `keepalive`, `ask`) or let it `run` on its own.

    `packages` holds the metadata of every applied package, `notes` what it would have logged as ERROR, `record` all
    frames of the current connection. `close` leaves no thread and no socket.
    """

    def __init__(
        self,
        address: tuple[str, int],
        key: str,
        name: str,
        root: Path,
        *,
        cluster: str = "wazuh",
        version: str = "4.14.1",
        receive_timeout_s: float = 120,
        api: Callable[[dict[str, Any]], object] = _no_api,
    ) -> None:
        self.address = address
        self.key = key
        self.name = name
        self.root = root
        self.receive_timeout_s = receive_timeout_s
        self.api = api
        self.packages: list[dict[str, Files]] = []
        self.outcomes: list[Outcome] = []
        self.agent_groups: list[dict[str, Any]] = []
        self.agent_info_results: list[str] = []
        self.forwarded: list[str] = []
        self._hello = f"{name} {cluster} worker {version}"
        self._connection: _Connection | None = None
        self._stopping = threading.Event()
        self._loop: threading.Thread | None = None

    def connect(self) -> ScriptedPeer:
        """Connects over TCP without sending anything; closes an earlier connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = _Connection(self)
        return self._connection

    def join(self) -> None:
        """Connects and sends hello. Raises PeerError with the master's reason when refused (and closes, as stock
        does)."""
        connection = self.connect()
        answer = connection.link.ask("hello", self._hello)
        if error := error_of(answer):
            connection.close()
            raise PeerError(f"Could not connect to master: {error}.")
        connection.spool()

    @property
    def connection(self) -> ScriptedPeer:
        return self._live()

    @property
    def record(self) -> list[Any]:
        return self._live().link.record

    @property
    def notes(self) -> list[str]:
        return self._live().notes

    def ask(self, command: str, payload: bytes | str = b"", timeout_s: float = 60.0) -> PeerMessage:
        return self._live().link.ask(command, payload, timeout_s)

    def keepalive(self) -> bytes:
        """Sends one keepalive; returns the payload of the answer. Raises PeerError when the answer is not `ok-m`."""
        answer = self.ask("echo-c", b"keepalive")
        if answer.command != b"ok-m":
            raise PeerError(f"keepalive: {answer.command!r} {answer.payload!r}")
        return answer.payload

    def check(self, timeout_s: float = 60.0) -> Outcome:
        """Runs one integrity round (4.6, 4.7). Returns its end: equal, applied, refused, silent (nothing arrived),
        failed (see notes)."""
        connection = self._live()
        if connection.busy or self.ask("syn_i_w_m_p").payload != b"True":
            return self._note("refused")
        connection.round_over.clear()
        connection.outcome = "silent"
        package = connection.spool() / package_name(self.name)
        write_package(package, self.root, scan(self.root))
        try:
            task = self.ask("syn_i_w_m").payload.decode()
            connection.send_file(package, task=task)
            self.ask("syn_i_w_m_e", f"{task} queue/cluster/{self.name}/{package.name}")
        finally:
            package.unlink(missing_ok=True)
        patience = Patience(timeout_s)
        while not connection.round_over.wait(0.05):
            if connection.link.closed.is_set() or patience.is_over():
                break
        return self._note(connection.outcome)

    def sync(self, timeout_s: float = 60.0, pause_s: float = 0.1) -> int:
        """Checks until the master reports equal; returns the number of packages that this took. Raises PeerError after
        the time."""
        patience = Patience(timeout_s)
        before = len(self.packages)
        while self.check(timeout_s) != "equal":
            if patience.is_over():
                raise PeerError(f"not equal in {timeout_s:g} s; rounds: {self.outcomes[-5:]}; notes: {self.notes[-3:]}")
            self._stopping.wait(pause_s)
        return len(self.packages) - before

    def run(self, interval_s: float = 9.0, retry_s: float = 10.0, keep_alive_s: float = 60.0) -> None:
        """Joins, checks every `interval_s`, and joins again `retry_s` after a lost connection, until `close`."""
        self._loop = threading.Thread(
            target=self._run, args=(interval_s, retry_s, keep_alive_s), name=f"{self.name}-loop"
        )
        self._loop.start()

    def close(self) -> None:
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            connection.link.close()
        if self._loop is not None:
            self._loop.join(60)
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> "StockWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _live(self) -> _Connection:
        if self._connection is None:
            raise PeerError("not connected: call join() or connect() first")
        return self._connection

    def _note(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        return outcome

    def _run(self, interval_s: float, retry_s: float, keep_alive_s: float) -> None:
        while not self._stopping.is_set():
            try:
                self.join()
                alive_at = time.monotonic() + keep_alive_s
                while not self._stopping.wait(interval_s):
                    if self._live().link.closed.is_set():  # `check` says no more than "refused" in the middle of a sync
                        raise PeerError("the connection was lost")
                    self.check()
                    if time.monotonic() >= alive_at:
                        self.keepalive()
                        alive_at = time.monotonic() + keep_alive_s
            except (PeerError, OSError):
                self._stopping.wait(retry_s)
