"""The monitoring port alone, beside a scripted node."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from clusterd.monitor.app import MonitorApp, Shown
from clusterd.monitor.hosts import host_check
from clusterd.monitor.journal_reader import Filter, JournalUnreadable, Page
from clusterd.monitor.lag import LagHistory
from clusterd.monitor.pages import read_pages
from clusterd.monitor.port import MonitorPort
from clusterd.monitor.source import StatusSource
from clusterd.rounds import Rounds
from clusterd.rundir import run_dir
from clusterd.settings import Clusterd, MonitorSettings, Settings
from ipc.board import Board
from tests.monitor.fake_status import board_of_node, status_of_master
from tools.rig.ports import free_port

DEADLINE_S = 60.0


class ScriptedPast:
    """A journal with that many events; `asked`: the queries."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[tuple[Filter, int]] = []
        self.failure = self.text = ""
        self.stopped_at: int | None = None

    def _events(self, wanted: Filter, limit: int) -> list[dict[str, Any]]:
        self.asked.append((wanted, limit))
        if self.failure:
            raise JournalUnreadable(self.failure)
        own = {"text": self.text} if self.text else {}
        return [{"seq": seq, "kind": "change", **own} for seq in range(wanted.after + 1, self.count + 1)]

    def following(self, wanted: Filter, limit: int) -> list[dict[str, Any]]:
        return self._events(wanted, limit)[:limit]

    def latest_page(self, wanted: Filter, limit: int) -> Page:
        return Page(self._events(wanted, limit)[::-1][:limit], self.stopped_at)


class LonePort:
    """A monitoring port in this process; everything behind it is scripted."""

    def __init__(self, directory: Path) -> None:
        self.number = free_port()
        root = str(directory)
        os.makedirs(run_dir(root), exist_ok=True)
        pages = directory / "pages"
        (pages / "sub").mkdir(parents=True, exist_ok=True)
        (pages / "index.html").write_text("<!doctype html><title>here</title>")
        (pages / "app.js").write_text("let one = 1;")
        (pages / "secret.txt").write_text("no page")
        own = Clusterd(monitor=MonitorSettings(port=self.number, names=("monitor.example.net",)))
        self.settings = Settings(root=root, clusterd=own)
        self.board: Board = board_of_node(directory)
        self.past = ScriptedPast(5)
        self.lines: list[tuple[str, str]] = []
        self.problems: dict[str, str] = {}
        self.status = status_of_master()
        self.metrics = b"clusterd_verdict 0\n"
        self.word = "good"
        self.leads_not = ""
        self.source = StatusSource(lambda: self.status, Rounds(self._say))
        shown = Shown(
            source=self.source,
            rows=self.board.rows,
            lag=LagHistory(),
            past=self.past,
            journal=lambda: {"events_lost": 0, "journal": {"rows": 5, "bytes": 7}},
            metrics=lambda seen: {"good": self.metrics}[self.word],
            pages=read_pages(pages),
            is_our_host=host_check(("m", *own.monitor.names)),
            primary=lambda: self.leads_not,
        )
        self.app = MonitorApp(shown, Rounds(self._say))
        self.port = MonitorPort(self.app, self.settings, self._say, self.problems.__setitem__)

    def _say(self, level: str, text: str) -> None:
        self.lines.append((level, text))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.number}"


def run(directory: Path, work: Callable[[LonePort, httpx.AsyncClient], Awaitable[None]]) -> LonePort:
    async def serve() -> LonePort:
        lone = LonePort(directory)
        tasks = [asyncio.create_task(lone.port.run()), asyncio.create_task(lone.app.viewers.run())]
        try:
            async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(base_url=lone.url, timeout=DEADLINE_S) as client:
                while not any("The monitoring port is" in text for _, text in lone.lines):
                    await asyncio.sleep(0.01)
                await work(lone, client)
        finally:
            lone.app.close()
            lone.source.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            lone.board.close()
        return lone

    logging.getLogger("uvicorn").addHandler(logging.NullHandler())
    return asyncio.run(serve())
