"""The master's role: scan, permission, compare, send (wire.md 1.4, 4.6, 4.7, 5.8)."""

import asyncio
import shutil
import time
from pathlib import Path

from benchmarks.reference.link import BUFFER_BYTES, Answer, Link, error_json
from benchmarks.reference.node import VERSION, Node
from benchmarks.reference.package import new_path, pack, unpack
from benchmarks.reference.tree import Files, compare, scan

CHECK = "Integrity check"
SYNC = "Integrity sync"


class Master:
    """Serves until it is cancelled."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.files: Files | None = None
        self.asked: set[str] = set()
        self.sessions: dict[str, Session] = {}

    async def run(self) -> None:
        server = await asyncio.start_server(self._serve, self.node.bind, self.node.port, limit=BUFFER_BYTES)
        async with server:
            while True:
                began = time.monotonic()
                self.files = await asyncio.to_thread(scan, self.node.root, self.files or {})
                self.asked.clear()
                self.node.log(
                    "Master",
                    "Local integrity",
                    f"Finished in {time.monotonic() - began:.3f}s. Calculated metadata of {len(self.files)} files.",
                )
                await asyncio.sleep(self.node.intervals["recalculate_integrity"])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self, Link(self.node, reader, writer))
        try:
            await session.link.run()
        finally:
            if self.sessions.get(session.link.worker) is session:
                del self.sessions[session.link.worker]
                session.link.empty_spool()


class Session:
    """One worker's connection."""

    def __init__(self, master: Master, link: Link) -> None:
        self.master = master
        self.link = link
        self._is_free = True
        self._began = 0.0
        link.handlers |= {
            b"hello": self._on_hello,
            b"echo-c": lambda payload: (b"ok-m ", payload),
            b"syn_i_w_m_p": self._on_permission,
            b"syn_i_w_m": self._on_check,
            b"syn_i_w_m_e": link.arrived,
            b"syn_i_w_m_r": self._on_worker_failed,
            b"syn_a_w_m_p": lambda _: (b"ok", b"False"),
        }

    def _on_hello(self, payload: bytes) -> Answer:
        node = self.master.node
        name, cluster, _, version = payload.decode().split(" ")
        for refused, code in (
            (name in self.master.sessions, 3028),
            (name == node.name, 3029),
            (cluster != node.cluster, 3030),
            (version != VERSION, 3031),
        ):
            if refused:
                return b"err", error_json(code, name if code == 3028 else None)
        self.link.worker = name
        self.master.sessions[name] = self
        node.spool(name)
        return b"ok", f"Client {name} added".encode()

    def _on_permission(self, _: bytes) -> Answer:
        name = self.link.worker
        if self.master.files is None or name in self.master.asked:
            return b"ok", b"False"
        self.master.asked.add(name)
        if time.monotonic() - self._began > self.master.node.intervals["max_locked_integrity_time"]:
            self._is_free = True
        return b"ok", str(self._is_free).encode()

    def _on_check(self, _: bytes) -> Answer:
        self._is_free = False
        self._began = time.monotonic()
        self.master.node.log(f"Worker {self.link.worker}", CHECK, "Starting.")
        task = self.link.expect_package()
        self.link.spawn(self._check(task), CHECK)
        return b"ok", task.encode()

    def _on_worker_failed(self, payload: bytes) -> Answer:
        self._is_free = True
        return self.link.failed(payload)

    async def _check(self, task: str) -> None:
        node, tag = self.master.node, f"Worker {self.link.worker}"
        try:
            package = await self.link.package(task)
            began = time.monotonic()
            directory = Path(f"{package}dir")
            try:
                theirs = unpack(package, directory)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
                package.unlink(missing_ok=True)
            groups = compare(self.master.files or {}, theirs)
            is_equal = not any(groups.values())
            node.log(
                tag,
                CHECK,
                f"Finished in {time.monotonic() - began:.3f}s. Received metadata of {len(theirs)} files. "
                f"Sync {'not ' if is_equal else ''}required.",
            )
            if is_equal:
                await self.link.ask("syn_m_c_ok")
                return
            await self._sync(groups, tag)
        finally:
            self._is_free = True

    async def _sync(self, groups: dict[str, Files], tag: str) -> None:
        node = self.master.node
        began = time.monotonic()
        node.log(tag, SYNC, "Starting.")
        node.log(
            tag,
            SYNC,
            f"Files to create in worker: {len(groups['missing'])} | Files to update in worker: {len(groups['shared'])} "
            f"| Files to delete in worker: {len(groups['extra'])}",
        )
        package = new_path(node.spool(self.link.worker), self.link.worker)
        try:
            await pack(package, node.root, groups, node.intervals["max_zip_size"], node.intervals["compress_level"])
            await self.link.send_package("syn_m_c", package)
        finally:
            package.unlink(missing_ok=True)
        node.log(tag, SYNC, f"Finished in {time.monotonic() - began:.3f}s.")
