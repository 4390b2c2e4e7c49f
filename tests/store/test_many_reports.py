"""Many workers report all their agents at the same time, as after a change of the master."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from clusterd.store import agents, http, new_term, report, schema
from clusterd.store.engine import MOST_PIECES, Engine, Session

WORKERS, PIECES, PIECE = 20, 6, 5
AGENTS = WORKERS * PIECES * PIECE


class Watched:
    """A store whose pieces are noted in the order in which the writer thread has done them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        schema.prepare(str(root), "master", "4.14.1")
        self.engine = Engine(str(root), readers=2)
        api = http.StoreApi(
            self.engine,
            node_type="master",
            body_limit=lambda: 1 << 20,
            say=lambda level, text: None,
        )
        self.app = api.app
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app=api.app), base_url="http://store")
        self.pieces = 0
        self._is_inside = False
        self.between: list[int] = []
        """Pieces that were done while one write waited."""
        monkeypatch.setattr(http, "PIECE", PIECE)
        monkeypatch.setattr(new_term, "PIECE", PIECE)
        for owner, name in ((report, "merge"), (report, "merge_ours"), (report, "confirm"), (new_term, "_mark")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, work: Any) -> Any:
        def done(*arguments: Any, **options: Any) -> Any:
            if self._is_inside:  # merge_ours uses merge
                return work(*arguments, **options)
            self.pieces += 1
            self._is_inside = True
            try:
                return work(*arguments, **options)
            finally:
                self._is_inside = False

        return done

    async def add_agents(self) -> None:
        def work(session: Session) -> None:
            for number in range(1, AGENTS + 1):
                agents.insert_agent(session, agents.NewAgentRow(number, f"agent{number}", 1))
                session.stamp(number)

        await self.engine.write(work)

    async def register(self, stop: asyncio.Event) -> None:
        """One write after the other."""
        while not stop.is_set():
            before = self.pieces
            self.between.append(await self.engine.write(lambda session: self.pieces) - before)
            await asyncio.sleep(0)

    async def post(self, path: str, body: bytes = b"") -> Any:
        answer = await self.client.post(path, content=body, timeout=120)
        assert answer.status_code == 200, path
        return answer.content


def reported(worker: int) -> bytes:
    numbers = range(worker + 1, AGENTS + 1, WORKERS)
    facts = {"version": "v2", "connection_status": "active", "group_config_status": "synced"}
    return msgspec.json.encode({"syncreq": [{"id": n, "name": f"agent{n}", **facts} for n in numbers]})


def test_a_write_waits_for_two_pieces_however_many_workers_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each worker's piece before it, registrations took seconds for as long as 50 workers reported."""

    async def main() -> None:
        store = Watched(tmp_path, monkeypatch)
        try:
            await store.add_agents()
            stop = asyncio.Event()
            registering = asyncio.create_task(store.register(stop))
            ours = [store.post(f"/v1/clusterd/agents/sync?node=w{n}&offset=0", reported(n)) for n in range(WORKERS)]
            stock = [store.post("/v1/agents/sync", reported(n)) for n in range(WORKERS)]
            await asyncio.gather(*ours, *stock)
            await store.post("/v1/clusterd/agents/again?term=2")
            taken = [
                await store.client.post(f"/v1/clusterd/agents/take?limit={AGENTS // 4}", timeout=120) for _ in range(4)
            ]
            await asyncio.gather(
                *(store.post(f"/v1/clusterd/agents/confirm?batch={one.headers['X-Clusterd-Batch']}") for one in taken)
            )
            stop.set()
            await registering
            written = await store.engine.read(
                lambda db: db.execute("select count(*) from agent where version = 'v2' and id > 0").fetchone()
            )
            assert written == (AGENTS,)
            assert store.pieces > 3 * WORKERS * PIECES
            assert max(store.between) <= MOST_PIECES
        finally:
            store.engine.close()
            await store.client.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(("offset", "written"), [("&offset=0", 1), ("", PIECES)])
def test_report_that_was_given_up_is_not_written_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: str, written: int
) -> None:
    """The worker brings it again. A master that was slow for a minute did nothing else any more, and its store grew to
    2 GB. A stock worker does not bring it again."""

    async def main() -> None:
        store = Watched(tmp_path, monkeypatch)
        try:
            await store.add_agents()
            body = reported(0)
            said: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive() -> Any:
                if said:
                    return said.pop(0)
                if store.pieces:
                    return {"type": "http.disconnect"}
                return await asyncio.get_running_loop().create_future()

            async def send(message: Any) -> None:
                return

            query = f"node=w{offset}".encode()
            await store.app(scope("/v1/clusterd/agents/sync", query, len(body)), receive, send)
            assert store.pieces == written
        finally:
            store.engine.close()
            await store.client.aclose()

    asyncio.run(main())


def scope(path: str, query: bytes, size: int) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": query,
        "http_version": "1.1",
        "headers": [(b"content-length", str(size).encode())],
        "client": None,
        "server": None,
    }
