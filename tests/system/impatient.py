"""Clients that ask once more, at once, when something went wrong, through every node of a cluster; what became of each
request. For tests of what the programs of a machine see of a change of master."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from clusterd.dapi.protocol.request import ApiRequest
from clusterd.errors import ClusterError
from clusterd.status.control import NotAnswering, ask_json, call
from clusterd.wire.commands import GET_NODES
from clusterd.wire.results import WireCallable
from tests.system.rest import Caller
from tools.rig.nodes import RigNode
from tools.rig.wdb_client import WdbError, authd

ASK_S = 30.0
PAUSE_S = 0.05
AGENTS = WireCallable("get_agents", "wazuh.agent", "get_agents", "function")


class Refused(Exception):
    """The node has answered, and not well."""


@dataclass
class Asked:
    """`first`: what went wrong at first; `second`: what did again. Empty: nothing. Seconds: of the monotonic clock."""

    kind: str
    node: str
    began: float
    ended: float
    first: str = ""
    second: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.node} {self.ended - self.began:.1f} s: {self.first!r}, then {self.second!r}"


@dataclass
class Clients:
    """A thread for each kind of request and node. `asked`: appended by all of them."""

    asked: list[Asked] = field(default_factory=list)
    given: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    crashed: list[BaseException] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def failed_twice(self) -> list[Asked]:
        return [one for one in self.asked if one.second]

    def longest(self, kind: str, since: float = 0.0) -> float:
        return max(
            (one.ended - one.began for one in self.asked if one.kind == kind and one.began >= since), default=0.0
        )

    def first_after(self, kind: str, at: float, node: str = "") -> float | None:
        """Seconds from then to the first good answer to something that was asked after it."""
        ends = [
            one.ended
            for one in self.asked
            if one.kind == kind and one.began >= at and not one.second and node in ("", one.node)
        ]
        return min(ends) - at if ends else None

    def ask(self, kind: str, node: RigNode, work: Callable[[], None]) -> Asked:
        one = Asked(kind, node.name, time.monotonic(), 0.0)
        one.first = problem_of(work)
        if one.first:
            time.sleep(PAUSE_S)
            one.second = problem_of(work)
        one.ended = time.monotonic()
        self.asked.append(one)
        return one

    def register(self, node: RigNode) -> None:
        count = 0
        while not self._stop.wait(PAUSE_S):
            count += 1
            name, found = f"{node.name}-{threading.get_ident()}-{count}", dict[str, Any]()

            def add(name: str = name, found: dict[str, Any] = found) -> None:
                found.update(enrolled(node, {"function": "add", "arguments": {"name": name, "ip": "any"}}))

            self.ask("register", node, add)
            if not found:
                continue
            number = int(found["id"])
            assert number not in self.given
            self.given.add(number)
            if count % 2:
                remove = {"function": "remove", "arguments": {"id": f"{number:03}"}}
                # A first answer that was lost may have been to a deletion that was done.
                is_gone = lambda failure: "9011" in failure  # noqa: E731
                one = self.ask("delete", node, lambda remove=remove: enrolled(node, remove) and None)
                if not one.second or (one.first and is_gone(one.second)):
                    one.second = ""
                    self.deleted.add(number)

    def read(self, node: RigNode) -> None:
        while not self._stop.wait(PAUSE_S):
            self.ask("read", node, lambda: agents_of(node))

    def list_nodes(self, node: RigNode) -> None:
        while not self._stop.wait(PAUSE_S):
            self.ask("nodes", node, lambda: ask_json(str(node.root), GET_NODES, b"{}", timeout_s=ASK_S))

    def call_rest(self, node: RigNode) -> None:
        with Caller(node) as caller:
            assert caller.token
            while not self._stop.wait(PAUSE_S):
                self.ask("rest", node, lambda: good(caller))

    @contextmanager
    def running(self, nodes: list[RigNode], rest: list[RigNode]) -> Iterator["Clients"]:
        works = [(work, node) for node in nodes for work in (self.register, self.read, self.list_nodes)]
        works += [(self.call_rest, node) for node in rest]
        threads = [threading.Thread(target=self._run, args=one) for one in works]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self.crashed:
            raise self.crashed[0]

    def _run(self, work: Callable[[RigNode], None], node: RigNode) -> None:
        try:
            work(node)
        except BaseException as failure:
            self.crashed.append(failure)
            raise


def problem_of(work: Callable[[], object]) -> str:
    try:
        work()
    except (WdbError, NotAnswering, ClusterError, OSError, httpx.HTTPError, Refused) as failure:
        return f"{type(failure).__name__}: {failure}"
    return ""


def enrolled(node: RigNode, request: dict[str, object]) -> dict[str, Any]:
    """`data` of the answer."""
    answer = authd(node.root, request, ASK_S)
    if answer["error"]:
        raise Refused(str(answer))
    data = answer.get("data")
    return data if isinstance(data, dict) else {"done": True}


def agents_of(node: RigNode) -> None:
    with suppress(KeyError):
        found = call(str(node.root), ApiRequest(AGENTS, {"limit": 1, "select": ["id"]}), timeout_s=ASK_S)
        if found.fields["total_failed_items"]:
            raise Refused(str(found.fields))


def good(caller: Caller) -> None:
    answer = caller.ask("GET", "/agents?limit=1")
    if answer.status_code != 200:
        raise Refused(answer.text)
