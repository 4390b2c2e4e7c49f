"""Many light workers in one process: hello, capabilities, keepalives, and integrity checks that find nothing.

    digest  a clusterd worker with the master's files: `caps`, then `syn_digest` with the right content digest
    stock   a stock worker with the master's files: permission, all its metadata as a package, `syn_m_c_ok`. It goes on
    where
            permission is refused (a stock master does not look again): otherwise one check a scan would be all

Driven by lines on the standard input, each answered by one line of JSON; the first line it prints is `ready`, or
`skip REASON` when the master does not know the way these workers check.

    {"checks": 100, "concurrency": 10}                        so many in all, as fast as the master answers
    {"seconds": 20, "interval_s": 9, "keepalive_s": 5}        each worker on its own clock, spread evenly

A check that does not find the files equal, and one without an answer, end the program with the reason on stderr.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.reference.link import BUFFER_BYTES, Answer, Link, LinkError
from benchmarks.reference.node import COMMUNICATION, VERSION, Node
from benchmarks.reference.package import new_path

CAPABILITIES = b'["digest"]'
WAIT_S = 0.05
ANSWER_TIMEOUT_S = 120.0
REPORT = b'{"updated_chunks": 1, "error_messages": [], "time_spent": 0.001}'


class CheckFailed(Exception):
    """A check did not end as expected."""


class Simulated:
    """One worker. `content`: its digest, or the path of its package."""

    def __init__(self, node: Node, kind: str, content: str) -> None:
        self.node = node
        self._kind = kind
        self._content = content
        self._equal: asyncio.Future[bool] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def join(self) -> str:
        """Connect and say hello. Returns why this kind of check is impossible, or nothing. Raises LinkError,
        OSError."""
        streams = await asyncio.open_connection(self.node.host, self.node.port, limit=BUFFER_BYTES)
        self.link = link = Link(self.node, *streams)
        link.worker = self.node.name
        link.handlers |= {
            b"new_str": lambda _: (b"ok", b"1"),
            b"str_upd": lambda _: (b"ok", b"String updated"),
            b"syn_g_m_w": lambda payload: self._groups(payload, "syn_w_g_e"),
            b"syn_g_m_w_c": lambda payload: self._groups(payload, "syn_wgc_e"),
            b"syn_changed": lambda _: (b"ok", b"Thanks"),
            b"syn_m_c_ok": lambda _: self._on_result(True),
            b"syn_m_c": lambda _: self._on_result(False),
        }
        self._reading = asyncio.create_task(link.run())
        await link.demand("hello", f"{self.node.name} {self.node.cluster} worker {VERSION}".encode())
        if self._kind == "stock":
            return ""
        command, agreed = await link.ask("caps", CAPABILITIES)
        if command == b"err" or "digest" not in json.loads(agreed):
            return "the master does not agree to the capability digest"
        command, said = await link.ask("syn_digest", self._content.encode())
        return f"the master answers syn_digest with {said.decode()!r}" if command == b"err" else ""

    async def check(self) -> float:
        """Does one complete check; returns the seconds from the first request to the answer. Raises CheckFailed,
        LinkError."""
        began = time.monotonic()
        if self._kind == "digest":
            while (said := await self.link.demand("syn_digest", self._content.encode())) == b"wait":
                await asyncio.sleep(WAIT_S)
            if said != b"equal":
                raise CheckFailed(f"the master says {said[:60]!r} to the digest of its own files")
        else:
            self._equal = asyncio.get_running_loop().create_future()
            await self.link.demand("syn_i_w_m_p")
            package = new_path(self.node.spool(self.node.name), self.node.name)
            os.link(self._content, package)
            await self.link.send_package("syn_i_w_m", package)
            try:
                if not await asyncio.wait_for(self._equal, ANSWER_TIMEOUT_S):
                    raise CheckFailed("the master finds its own files different")
            except TimeoutError:
                raise CheckFailed("no syn_m_c_ok came") from None
        return time.monotonic() - began

    async def keep_alive(self) -> float:
        began = time.monotonic()
        command, said = await self.link.ask("echo-c", b"keepalive")
        if command != b"ok-m" or said != b"keepalive":
            raise CheckFailed(f"a keepalive was answered {command!r}")
        return time.monotonic() - began

    async def leave(self) -> None:
        await self.link.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _on_result(self, is_equal: bool) -> Answer:
        if self._equal is not None and not self._equal.done():
            self._equal.set_result(is_equal)
        return (b"ok", b"Thanks") if is_equal else (b"err", b"this worker takes no package")

    def _groups(self, payload: bytes, report: str) -> Answer:
        async def answer() -> None:
            with contextlib.suppress(LinkError):
                await self.link.ask(report, REPORT)

        self.link.spawn(answer(), "Agent-groups recv")
        return b"ok", payload


async def many(workers: list[Simulated], checks: int, concurrency: int) -> dict[str, Any]:
    """Does this many checks in all, worker after worker."""
    turns = itertools.islice(itertools.cycle(workers), checks)
    times: list[float] = []
    locks = {id(worker): asyncio.Lock() for worker in workers}

    async def one_after_the_other() -> None:
        for worker in turns:
            async with locks[id(worker)]:
                times.append(await worker.check())

    began = time.monotonic()
    await asyncio.gather(*(one_after_the_other() for _ in range(min(concurrency, len(workers)))))
    return {"checks": len(times), "seconds": time.monotonic() - began, "check_max_ms": max(times) * 1000}


async def for_a_while(
    workers: list[Simulated], seconds: float, interval_s: float, keepalive_s: float
) -> dict[str, Any]:
    """Each worker checks and keeps itself alive on its own clock."""
    checks: list[float] = []
    alive: list[float] = []
    end = time.monotonic() + seconds

    async def every(period_s: float, phase: float, what: Any, into: list[float]) -> None:
        at = time.monotonic() + period_s * phase
        while at < end:
            await asyncio.sleep(at - time.monotonic())
            into.append(await what())
            at = max(at + period_s, time.monotonic())

    await asyncio.gather(
        *(every(interval_s, n / len(workers), one.check, checks) for n, one in enumerate(workers)),
        *(every(keepalive_s, n / len(workers), one.keep_alive, alive) for n, one in enumerate(workers)),
    )
    alive.sort()
    return {
        "checks": len(checks),
        "keepalives": len(alive),
        "keepalive_p99_ms": alive[int(len(alive) * 0.99)] * 1000,
        "keepalive_max_ms": alive[-1] * 1000,
    }


async def serve(kind: str, count: int, host: str, port: int, cluster: str, content: str) -> None:
    key = os.environ["CLUSTERD_KEY"]
    with tempfile.TemporaryDirectory(dir=Path(content).parent if kind == "stock" else None) as root:
        (Path(root) / "logs").mkdir()
        workers = []
        for number in range(count):
            name = f"simulated{number:03}"
            node = Node(Path(root), "worker", name, cluster, key, host, port, host, dict(COMMUNICATION))
            workers.append(Simulated(node, kind, content))
        loop = asyncio.get_running_loop()
        try:
            for worker in workers:
                if reason := await worker.join():
                    print(f"skip {reason}", flush=True)
                    return
            print("ready", flush=True)
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                asked = json.loads(line)
                done = await (many(workers, **asked) if "concurrency" in asked else for_a_while(workers, **asked))
                print(json.dumps(done), flush=True)
        finally:
            for worker in workers:
                await worker.leave()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5], sys.argv[6]))
