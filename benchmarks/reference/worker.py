"""The worker's role: join, keep alive, check with all metadata, apply (wire.md 1.4 to 1.7, 4.6, 4.7, 5.9)."""

import asyncio
import shutil
import time
from pathlib import Path

from benchmarks.reference.link import BUFFER_BYTES, Answer, Link, LinkError, error_json
from benchmarks.reference.node import VERSION, Node
from benchmarks.reference.package import new_path, pack_metadata, unpack
from benchmarks.reference.tree import Files, apply, scan

CHECK = "Integrity check"
SYNC = "Integrity sync"


class Worker:
    """Stays connected to its master until it is cancelled; keeps nothing from one connection to the next, as in stock
    (1.7)."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._tag = f"Worker {node.name}"
        self._busy = False
        self._files: Files = {}

    async def run(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(self.node.host, self.node.port, limit=BUFFER_BYTES)
            except OSError:
                self.node.log(self._tag, "Main", "Could not connect to master.", "ERROR")
            else:
                await self._stay(Link(self.node, reader, writer))
            await asyncio.sleep(self.node.intervals["connection_retry"])

    async def _stay(self, link: Link) -> None:
        link.worker = self.node.name
        self._busy, self._files = False, {}
        link.handlers |= {
            b"echo-m": lambda payload: (b"ok-c", payload),
            b"syn_m_c": lambda _: self._on_package(link),
            b"syn_m_c_ok": lambda _: (b"ok", b"Thanks"),
            b"syn_m_c_e": link.arrived,
            b"syn_m_c_r": link.failed,
        }
        reading = asyncio.create_task(link.run())
        try:
            await link.demand("hello", f"{self.node.name} {self.node.cluster} worker {VERSION}".encode())
            self.node.log(self._tag, "Main", "Successfully connected to master.")
            self.node.spool(self.node.name)
            link.spawn(self._check_for_ever(link), CHECK)
            link.spawn(self._keep_alive(link), "Keep Alive")
            await reading
        except LinkError as error:
            self.node.log(self._tag, "Main", f"Could not connect to master: {error}.", "ERROR")
        finally:
            reading.cancel()
            await link.close()
            link.empty_spool()

    async def _keep_alive(self, link: Link) -> None:
        while True:
            await asyncio.sleep(self.node.intervals["keep_alive"])
            await link.demand("echo-c", b"keepalive")

    async def _check_for_ever(self, link: Link) -> None:
        while True:
            await asyncio.sleep(self.node.intervals["sync_integrity"])
            try:
                if not self._busy and await link.demand("syn_i_w_m_p") == b"True":
                    await self._check(link)
            except LinkError as error:
                self.node.log(self._tag, CHECK, str(error), "ERROR")

    async def _check(self, link: Link) -> None:
        began = time.monotonic()
        self.node.log(self._tag, CHECK, "Starting.")
        self._files = await asyncio.to_thread(scan, self.node.root, self._files)
        package = new_path(self.node.spool(self.node.name), self.node.name)
        pack_metadata(package, self._files, self.node.intervals["compress_level"])
        await link.send_package("syn_i_w_m", package)
        self.node.log(self._tag, CHECK, f"Finished in {time.monotonic() - began:.3f}s.")

    def _on_package(self, link: Link) -> Answer:
        self._busy = True
        task = link.expect_package()
        link.spawn(self._sync(link, task), SYNC)
        return b"ok", task.encode()

    async def _sync(self, link: Link, task: str) -> None:
        try:
            package = await link.package(task)
            began = time.monotonic()
            self.node.log(self._tag, SYNC, "Starting.")
            problems = await asyncio.to_thread(self._apply, package)
            for problem in problems:
                self.node.log(self._tag, SYNC, problem, "ERROR")
            self.node.log(self._tag, SYNC, f"Finished in {time.monotonic() - began:.3f}s.")
        except Exception as error:
            await link.ask("syn_i_w_m_r", b"None " + error_json(1000, str(error), "WazuhInternalError"))
            raise
        finally:
            self._busy = False

    def _apply(self, package: Path) -> list[str]:
        directory = Path(f"{package}dir")
        directory.mkdir(mode=0o770)
        try:
            groups = unpack(package, directory)
            package.unlink()
            return apply(self.node.root, directory, groups)
        finally:
            package.unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)
