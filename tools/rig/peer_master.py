"""A stock master: accepts, answers hello, scans, gives permission, compares, sends packages."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tools.rig.peer_base import PeerRefusal, ScriptedPeer, error_of, exception_json, wait_until
from tools.rig.peer_files import Files, compare, package_name, scan, write_package
from tools.rig.peer_frames import PeerError


class WorkerSession(ScriptedPeer):
    """The master's end of one worker's connection. `hello` is None until the worker has been accepted."""

    commands: ClassVar[dict[str, str]] = ScriptedPeer.commands | {
        "hello": "_on_hello",
        "echo-c": "_on_echo_c",
        "syn_i_w_m_p": "_on_syn_i_w_m_p",
        "syn_i_w_m": "_on_syn_i_w_m",
        "syn_i_w_m_e": "file_arrived",
        "syn_i_w_m_r": "_on_syn_i_w_m_r",
        "syn_a_w_m_p": "_on_syn_a_w_m_p",
        "syn_a_w_m": "_on_syn_a_w_m",
        "syn_w_g_e": "_on_groups_result",
        "syn_w_g_err": "_on_groups_result",
        "syn_wgc_e": "_on_groups_result",
        "syn_wgc_err": "_on_groups_result",
        "syn_w_g_c": "_on_syn_w_g_c",
        "get_nodes": "_on_get_nodes",
        "get_health": "_on_get_health",
        "dapi": "_on_dapi",
        "dapi_res": "_on_dapi_res",
        "dapi_err": "_on_dapi_err",
        "sendsync": "_on_sendsync",
    }

    def __init__(self, master: "StockMaster", sock: socket.socket, address: str) -> None:
        super().__init__(sock, master.key, master.root, "", master.receive_timeout_s)
        self.master = master
        self.address = address
        self.hello: tuple[str, str, str, str] | None = None
        self.checks: list[dict[str, Files]] = []
        self.agent_info: list[dict[str, Any]] = []
        self.groups_results: list[str] = []
        self.api_results: list[tuple[str, bytes]] = []
        self.integrity_free = True
        self.asked = False
        self.link.start()

    def send_agent_groups(self, chunks: list[str], full: bool = False) -> None:
        """Sends agent-groups to the worker (6.4); its report is added to `groups_results`."""
        message = {"set_data_command": "global set-agent-groups"}
        body = message | {"payload": {"mode": "override", "sync_status": "synced"}, "chunks": chunks}
        self.link.ask("syn_g_m_w_c" if full else "syn_g_m_w", self.send_string(json.dumps(body).encode()))

    def send_package(self, groups: dict[str, Files]) -> None:
        """Sends `syn_m_c`, the package, `syn_m_c_e` (4.7)."""
        package = self.spool() / package_name(self.node)
        write_package(package, self.root, groups)
        task = None
        try:
            answer = self.link.ask("syn_m_c")
            if error := error_of(answer):
                raise PeerError(f"Error sending zip file: {error}")
            task = answer.payload.decode()
            self.send_file(package, self.master.chunk_bytes, task)
            self.link.ask("syn_m_c_e", f"{task} queue/cluster/{self.node}/{package.name}")
        except PeerError as error:
            if not self.link.closed.is_set():
                self.link.ask("syn_m_c_r", f"{task} ".encode() + exception_json(3018, str(error)))
            raise
        finally:
            package.unlink(missing_ok=True)

    def _on_hello(self, payload: bytes) -> bytes:
        parts = payload.decode().split(" ")
        if len(parts) < 4:
            raise ValueError(f"not enough values to unpack (expected 4, got {len(parts)})")
        if len(parts) > 4:
            raise ValueError("too many values to unpack (expected 4)")
        name, cluster, _, version = parts
        if name in self.master.sessions:
            self.node = ""
            raise PeerRefusal(3028, name)
        self.node = name
        if name == self.master.name:
            raise PeerRefusal(3029)
        self.master.sessions[name] = self
        if cluster != self.master.cluster:
            raise PeerRefusal(3030)
        if version != self.master.version:
            raise PeerRefusal(3031)
        self.spool()
        self.hello = (name, cluster, parts[2], version)
        return f"Client {name} added".encode()

    def _on_echo_c(self, payload: bytes) -> tuple[bytes, bytes]:
        return b"ok-m ", payload

    def _on_syn_i_w_m_p(self, payload: bytes) -> bytes:
        granted = self.master.permit and not self.asked and self.integrity_free
        self.asked = True
        return str(granted).encode()

    def _on_syn_i_w_m(self, payload: bytes) -> bytes:
        self.integrity_free = False
        task = self.expect_file()
        self.run_task(lambda: self._check(task))
        return task.encode()

    def _check(self, task: str) -> None:
        try:
            metadata = self.await_package(task)
            if metadata is None:
                return
            shutil.rmtree(metadata.pop(""), ignore_errors=True)
            groups = compare(self.master.files, metadata)
            self.checks.append(groups)
            if any(groups.values()):
                self.send_package(groups)
            else:
                self.link.ask("syn_m_c_ok")
        finally:
            self.integrity_free = True

    def _on_syn_i_w_m_r(self, payload: bytes) -> bytes:
        self.integrity_free = True
        return self.task_failed(payload)

    def _on_syn_a_w_m_p(self, payload: bytes) -> bytes:
        return b"True"

    def _on_syn_a_w_m(self, payload: bytes) -> bytes:
        self.run_task(lambda: self._agent_info(payload.decode()))
        return payload

    def _agent_info(self, name: str) -> None:
        chunks = json.loads(self.take_string(name))["chunks"]
        self.agent_info.append(chunks)
        self.link.ask(
            "syn_m_a_e", json.dumps({"updated_chunks": len(chunks), "error_messages": [], "time_spent": 0.001})
        )

    def _on_groups_result(self, payload: bytes) -> bytes:
        self.groups_results.append(payload.decode())
        return b"Thanks"

    def _on_syn_w_g_c(self, payload: bytes) -> bytes:
        return b"<stock.SendEntireAgentGroupsTask object at 0x7fa65615d9f0>"

    def _on_get_nodes(self, payload: bytes) -> bytes:
        items = self.master.nodes()
        return json.dumps({"items": items, "totalItems": len(items)}).encode()

    def _on_get_health(self, payload: bytes) -> bytes:
        nodes = {item["name"]: {"info": item} for item in self.master.nodes()}
        return json.dumps({"n_connected_nodes": len(nodes) - 1, "nodes": nodes}).encode()

    def _on_dapi(self, payload: bytes) -> bytes:
        number, request = payload.decode().split(" ", 1)
        self.run_task(lambda: self._call(number, request))
        return b"Added request to API requests queue"

    def _call(self, number: str, request: str) -> None:
        answer = json.dumps(self.master.api(json.loads(request))).encode()
        self.link.ask("dapi_res", f"{number} {self.send_string(answer)}")

    def _on_dapi_res(self, payload: bytes) -> bytes:
        number, name = payload.decode().split(" ", 1)
        self.api_results.append((number, self.take_string(name)))
        return b"Forwarded response"

    def _on_dapi_err(self, payload: bytes) -> bytes:
        number, text = payload.decode().split(" ", 1)
        self.api_results.append((number, text.encode()))
        return b"DAPI error forwarded to worker"

    def _on_sendsync(self, payload: bytes) -> bytes:
        number, request = payload.decode().split(" ", 1)
        self.run_task(lambda: self._daemon(number, json.loads(request)))
        return b"Added request to SendSync requests queue"

    def _daemon(self, number: str, request: dict[str, Any]) -> None:
        try:
            answer = self.master.daemon(request["daemon_name"], request["message"])
        except PeerError as error:
            self.link.ask("sendsyn_err", f"{number} {error}")
            return
        self.link.ask("sendsyn_res", f"{number} {self.send_string(answer.encode())}")


def _no_api(request: dict[str, Any]) -> object:
    raise PeerError(f"this master answers no API request: {request.get('f')}")


def _no_daemon(name: str, message: object) -> str:
    raise PeerError(f"Error 1014 - Error communicating with socket: '{name}'")


class StockMaster:
    """A stock master in `root` that serves from construction until `close`.

    It scans every `scan_interval_s`; a worker gets one permission per scan. `files` is what it compares with (the last
    scan). `scan_first` False shows the stock defect C7: it compares with nothing until the first scan is done, and then
    only `scan_now` scans. `permit` False refuses every check. `chunk_bytes` makes packages travel in small chunks.
    """

    def __init__(
        self,
        root: Path,
        key: str,
        *,
        name: str = "master",
        cluster: str = "wazuh",
        version: str = "4.14.1",
        host: str = "127.0.0.1",
        port: int = 0,
        scan_interval_s: float = 8.0,
        scan_first: bool = True,
        receive_timeout_s: float = 120,
        chunk_bytes: int = 5242880,
        api: Callable[[dict[str, Any]], object] = _no_api,
        daemon: Callable[[str, Any], str] = _no_daemon,
    ) -> None:
        self.root = root
        self.key = key
        self.name = name
        self.cluster = cluster
        self.version = version
        self.receive_timeout_s = receive_timeout_s
        self.chunk_bytes = chunk_bytes
        self.api = api
        self.daemon = daemon
        self.permit = True
        self.files: Files = scan(root) if scan_first else {}
        self.sessions: dict[str, WorkerSession] = {}
        self._every: list[WorkerSession] = []
        self._stopping = threading.Event()
        self._listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.settimeout(0.2)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name=f"{name}-accept")]
        if scan_first:
            self._threads.append(threading.Thread(target=self._scan, args=(scan_interval_s,), name=f"{name}-scan"))
        for thread in self._threads:
            thread.start()

    def session(self, name: str, timeout_s: float = 60.0) -> WorkerSession:
        """Returns the session of a worker once its hello has been answered: a worker refuses what comes before. Raises
        PeerError when the worker does not connect in time."""
        wait_until(
            lambda: (
                (found := self.sessions.get(name)) is not None
                and found.hello is not None
                and b"hello" in found.link.answered
            ),
            timeout_s,
            f"{name} joins",
        )
        return self.sessions[name]

    def scan_now(self) -> None:
        """Scans at once; afterwards every worker may check again."""
        self.files = scan(self.root)
        for session in self.sessions.copy().values():
            session.asked = False

    def nodes(self) -> list[dict[str, str]]:
        own = {"name": self.name, "type": "master", "version": self.version, "ip": self.host}
        joined = [(session.hello, session.address) for session in self.sessions.copy().values() if session.hello]
        return [own, *({"name": h[0], "type": h[2], "version": h[3], "ip": address} for h, address in joined)]

    def drop(self, name: str) -> None:
        """Closes one worker's connection, as a master that restarts would."""
        self.sessions[name].link.close()

    def close(self) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        for thread in self._threads:
            thread.join(30)
        self._listener.close()
        for session in self._every:
            session.close()

    def __enter__(self) -> "StockMaster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            self._forget()
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                if self._stopping.is_set():
                    return
                raise
            self._every.append(WorkerSession(self, sock, address[0]))

    def _forget(self) -> None:
        for session in [one for one in self._every if one.link.closed.is_set()]:
            self._every.remove(session)
            session.close()  # before the name is free again: closing empties the directory that the next session uses
            if self.sessions.get(session.node) is session:
                del self.sessions[session.node]

    def _scan(self, interval_s: float) -> None:
        due = time.monotonic() + interval_s
        while not self._stopping.wait(max(due - time.monotonic(), 0.0)):
            self.scan_now()
            due = time.monotonic() + interval_s
