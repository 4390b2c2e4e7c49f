"""Clients of a cluster that loses its masters, an observer, and the faults of the masters (test_failover.py)."""

import contextlib
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from clusterd.agent_keys import parse_keys
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.errors import ClusterError
from clusterd.rundir import JOURNAL, REPLICA_FILE, board_path
from clusterd.status.control import NotAnswering, call
from clusterd.store import schema
from clusterd.wire.results import WireCallable
from ipc.board import Board
from tests.campaigns.frame import Campaign, Edits, last_lines
from tests.campaigns.history import Agent, Committed, Held, History, Operation, Seen
from tests.warm import read_ha
from tools.rig import candidates, switchboard
from tools.rig.nodes import Rig, RigNode
from tools.rig.patience import Patience
from tools.rig.wdb_client import WdbError, authd

ASK_S = 30.0
AGAIN_S = 0.05
LOOK_S = 0.05
LOOK_AGAIN_S = 0.3
CALM_S = 180.0
GROUP = "campaign"
NOBODY = ("Connection refused", "No such file")
"""The system's errors where no program listens: nothing was sent."""
DONE_BEFORE = {"register": "9008", "delete": "9011"}
"""What a second request is told when the first one was done, and its answer was lost."""


class Clients:
    """Threads that register agents, and delete and assign those that they registered, each through any node."""

    def __init__(self, rig: Rig, history: History, count: int, seed: int, pause_s: float) -> None:
        self._rig = rig
        self._history = history
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number, seed)) for number in range(count)]
        self.failures: list[BaseException] = []

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, seed: int) -> None:
        rng = random.Random(f"client-{seed}-{number}")
        own: list[Operation] = []
        count = 0
        try:
            while not self._stop.wait(rng.uniform(0.2, 1.8) * self._pause_s):
                node = rng.choice(self._rig.nodes)
                chance = rng.random()
                if own and chance < 0.25:
                    self._delete(number, node, own.pop(rng.randrange(len(own))))
                elif own and chance < 0.4:
                    self._assign(number, node, rng.choice(own))
                else:
                    count += 1
                    made = self._register(number, node, f"agent-{number}-{count}")
                    if made.outcome == "done":
                        own.append(made)
        except BaseException as failure:
            self.failures.append(failure)

    def _register(self, number: int, node: RigNode, name: str) -> Operation:
        request: dict[str, object] = {"function": "add", "arguments": {"name": name, "ip": "any"}}

        def ask(made: Operation) -> None:
            answer = self._authd(made, node, request)
            if made.outcome == "done":
                made.id, made.key = int(answer["data"]["id"]), answer["data"]["key"]

        return self._ask(Operation(number, node.name, "register", name, 0, 0, "unknown"), ask)

    def _delete(self, number: int, node: RigNode, agent: Operation) -> None:
        request: dict[str, object] = {"function": "remove", "arguments": {"id": f"{agent.id:03}"}}
        made = Operation(number, node.name, "delete", agent.agent, 0, 0, "unknown", agent.id)
        self._ask(made, lambda made: self._authd(made, node, request))

    def _assign(self, number: int, node: RigNode, agent: Operation) -> None:
        request = ApiRequest(
            WireCallable("assign_agents_to_group", "wazuh.agent", "assign_agents_to_group", "function"),
            {"group_list": [GROUP], "agent_list": [f"{agent.id:03}"]},
        )

        def ask(made: Operation) -> None:
            try:
                found = call(str(node.root), request, timeout_s=ASK_S)
                made.text = str(found.fields) if found.fields["total_failed_items"] else ""
                # 1751: it is in the group
                made.outcome = "unknown" if made.text and "1751" not in made.text else "done"
            except (NotAnswering, ClusterError, OSError) as failure:
                made.text = str(failure)

        made = Operation(number, node.name, "assign", agent.agent, 0, 0, "unknown", agent.id, group=GROUP)
        self._ask(made, ask)

    def _ask(self, first: Operation, ask: Callable[[Operation], object]) -> Operation:
        """Asks, and once more when it was not told that it is done; returns what it was told at last. Both are in the
        history."""
        second = msgspec.structs.replace(first, is_second=True)
        for made in (first, second):
            made.began = time.monotonic()
            ask(made)
            made.ended = time.monotonic()
            word = DONE_BEFORE.get(made.kind)
            made.was_done = made.is_second and word is not None and word in made.text and word not in first.text
            if made.was_done and made.kind == "delete":
                made.outcome = "done"
            self._history.operations.append(made)
            if made.outcome == "done" or self._stop.wait(AGAIN_S):
                break
        return made

    def _authd(self, made: Operation, node: RigNode, request: dict[str, object]) -> dict[str, dict[str, str]]:
        answer: dict[str, dict[str, str]] = {}
        try:
            answer = authd(node.root, request, ASK_S)
            made.text = json.dumps(answer) if answer["error"] else ""
            made.outcome = "unknown" if answer["error"] else "done"
        except (WdbError, TypeError, KeyError) as failure:
            made.text = str(failure)
            made.outcome = "not sent" if any(word in made.text for word in NOBODY) else "unknown"
        return answer


class Observer:
    """Reads the boards of all candidates again and again: the pages by which their own processes judge whether they may
    act as master."""

    def __init__(self, rig: Rig, history: History) -> None:
        self._rig = rig
        self._history = history
        self._boards: dict[str, tuple[int, Board]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.latest = Seen(0, 0, {})

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            found = self._look()
            self._history.looks += 1
            if found.leaders != self.latest.leaders or len(self._history.seen) < 1:
                self._history.seen.append(found)
            self.latest = found

    def _look(self) -> Seen:
        began = time.monotonic()
        found = {}
        for node in self._rig.candidates:
            try:
                found[node.name] = self._board(node).lead()
            except (OSError, ValueError):
                continue  # a node that is being started, or was never
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        leaders = {name: term for name, (term, until_ns) in found.items() if now_ns < until_ns}
        return Seen(began, time.monotonic(), leaders)

    def _board(self, node: RigNode) -> Board:
        path = Path(board_path(str(node.root)))
        inode = path.stat().st_ino
        known = self._boards.get(node.name)
        if known is None or known[0] != inode:
            known = (inode, Board.open(str(path)))
            self._boards[node.name] = known
        return known[1]

    @property
    def leader(self) -> tuple[str, int] | None:
        """Returns the node that may act as master at the last look, and its term."""
        return next(iter(self.latest.leaders.items()), None)


class LeaderEdits(Edits):
    """Edits files on whichever node leads."""

    def __init__(self, campaign: Campaign, rig: Rig, observer: Observer, pause_s: float) -> None:
        super().__init__(campaign, rig.master.root, pause_s=pause_s, size=20_000)
        self._rig = rig
        self._observer = observer

    def step(self) -> None:
        leader = self._observer.leader
        if leader is None:
            return
        self.use(self._rig.node(leader[0]).root)
        super().step()


# ---- faults ----------------------------------------------------------------------------------------------------------


class Faults:
    """Disturbs the leader, and waits until another node leads, or the same one still does. Of the last fault: `began`,
    and when it was whole, `since`; `order_s`: how long the order of a switchover took."""

    def __init__(self, rig: Rig, observer: Observer, history: History, rng: random.Random, longest_s: float) -> None:
        """`longest_s`: how long a fault lasts at most that needs no other leader."""
        self._rig, self._observer, self._history, self._rng, self._longest_s = rig, observer, history, rng, longest_s
        etcd = rig.etcd
        assert etcd is not None
        self._etcd = etcd
        self.began, self.since, self.order_s = 0.0, 0.0, 0.0

    def make(self, kind: str, leader: RigNode) -> None:
        self.began, self.since, self.order_s = time.monotonic(), 0.0, 0.0
        getattr(self, kind)(leader)

    def kill(self, leader: RigNode) -> None:
        """Sends SIGKILL to the supervisor."""
        candidates.kill(leader)
        self.since = time.monotonic()
        self._successor(leader)
        self._rig.start(leader.name)

    def stop(self, leader: RigNode) -> None:
        """Stops the node as an operator does, who restarts it after a moment."""
        assert self._rig.stop(leader.name, timeout_s=60) == []
        self.since = time.monotonic()
        self._successor(leader)
        self._rig.start(leader.name)

    def freeze(self, leader: RigNode) -> None:
        """Stops all processes of the node for longer than the lease, then lets them go on."""
        candidates.freeze(leader)
        self.since = time.monotonic()
        try:
            self._successor(leader)
            time.sleep(self._rng.uniform(0, 2))
        finally:
            candidates.thaw(leader)

    def busy(self, leader: RigNode) -> None:
        """Its process `election` gets no time for longer than the lease, as on a machine that is too busy; all others
        work on."""
        election = psutil.Process(Board.open(board_path(str(leader.root))).row("election").snapshot().pid)
        election.suspend()
        self.since = time.monotonic()
        try:
            self._successor(leader)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                election.resume()

    def cut_etcd(self, leader: RigNode) -> None:
        """Cuts the leader off from etcd only."""
        with self._cut(leader, "etcd"):
            self._successor(leader)

    def cut_peers(self, leader: RigNode) -> None:
        """Cuts the leader off from all other nodes, but not from etcd: it goes on."""
        with self._cut(leader, "peers"):
            time.sleep(self._rng.uniform(0, self._longest_s))

    def cut_all(self, leader: RigNode) -> None:
        """Cuts the leader off from everything."""
        with self._cut(leader, "all"):
            self._successor(leader)

    def etcd_member(self, leader: RigNode) -> None:
        """Kills a member of etcd and starts it again."""
        name = self._rng.choice(self._etcd.names)
        self._etcd.kill(name)
        time.sleep(self._rng.uniform(0, self._longest_s / 2))
        self._etcd.start(name)

    def switchover(self, leader: RigNode) -> None:
        """Orders a switchover on any candidate, when all of them are there, as an operator does."""
        self.until(lambda: self._is_whole(leader), "every candidate follows")
        self.began = time.monotonic()
        node = self._rng.choice(self._rig.candidates)
        done = self._rig.command(node, "ha", "switchover", timeout_s=CALM_S)
        self.order_s = time.monotonic() - self.began
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        self._successor(leader)

    @contextlib.contextmanager
    def _cut(self, node: RigNode, ways: switchboard.Ways) -> Iterator[None]:
        how: switchboard.Command = self._rng.choice(("cut", "silence"))
        switchboard.tell(self._rig.switchboard, how, node.name, ways)
        self.since = time.monotonic()
        try:
            yield
        finally:
            switchboard.tell(self._rig.switchboard, "mend", node.name, ways)

    def _successor(self, leader: RigNode) -> None:
        def another() -> bool:
            found = self._observer.leader
            return found is not None and found[0] != leader.name

        self.until(another, f"another leader than {leader.name}")

    def leader(self) -> tuple[str, int]:
        """Waits for one where there is none at this moment: on a busy machine it may come too late to renew."""
        found: tuple[str, int] | None = None

        def is_there() -> bool:
            nonlocal found
            found = self._observer.leader
            return found is not None

        self.until(is_there, "a leader")
        assert found is not None
        return found

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        patience = Patience(CALM_S)
        while not is_so():
            if patience.is_over():
                raise AssertionError(f"not within {CALM_S:g} s: {what}\n{last_lines(self._rig, 40)}")
            time.sleep(LOOK_AGAIN_S)

    def is_calm(self) -> bool:
        """Whether a node leads, registrations wait for a candidate that may take over, and all others follow."""
        leader = self._observer.leader
        if leader is None:
            return False
        ha = self._status(leader[0])
        election = ha.get("election") or {}
        rows = election.get("candidates") or []
        # A node that does not confirm leads only when the confirming one is gone for good.
        return (
            ha.get("registrations") == "synchronous"
            and bool(election["serves"])
            and len(rows) == len(self._rig.candidates)
            and any(row["role"] != "leader" and not row["may_not_lead"] for row in rows)
            and not any(row["may_not_lead"] for row in ha["candidates"])
        )

    def _is_whole(self, leader: RigNode) -> bool:
        """Whether every other candidate is linked to it and could confirm."""
        rows = self._status(leader.name).get("candidates") or []
        able = [row for row in rows if row["connected"] and not row["may_not_lead"]]
        return len(able) == len(self._rig.candidates) - 1

    def _status(self, leader: str) -> dict[str, Any]:
        return read_ha(self._rig.node(leader).root) or {}


# ---- the end ---------------------------------------------------------------------------------------------------------


def held_by(rig: Rig) -> dict[str, Held]:
    """Returns what every node holds, with a status from every node."""
    found = {}
    facts = rig.status()
    for node in rig.nodes:
        keys, _ = parse_keys((node.root / "etc/client.keys").read_text())
        own = {int(key.id): Agent(key.name, key.key) for key in keys if not key.is_removed}
        manifest = facts[node.name].get("manifest") or {}
        agents = facts[node.name].get("agents") or {}
        found[node.name] = Held(
            own,
            agents_of(node, is_master=facts[node.name]["node"]["type"] == "master") if node.advertised else None,
            str(agents.get("groups_hash")),
            str(manifest.get("content_digest")),
            groups_of(node, is_master=facts[node.name]["node"]["type"] == "master"),
        )
    return found


def committed_by(rig: Rig) -> list[Committed]:
    """What the journals of all candidates say of registrations."""
    found = []
    for node in rig.candidates:
        db = sqlite3.connect(f"file:{node.root / JOURNAL}?mode=ro", uri=True)
        try:
            rows = [json.loads(data) for (data,) in db.execute("select data from events where kind = 'registration'")]
        finally:
            db.close()
        found += [
            Committed(node.name, row.get("term", 0), row["name"], int(row["agent"]))
            for row in rows
            if row["what"] == "added"
        ]
    return found


def agents_of(node: RigNode, *, is_master: bool) -> dict[int, str] | None:
    """Returns the agents in the database of a master, or in the replica of a candidate."""
    try:
        db = schema.connect(str(node.root), readonly=True, name=schema.DATABASE if is_master else REPLICA_FILE)
    except sqlite3.Error:
        return None
    try:
        return {int(number): name for number, name in db.execute("select id, name from agent where id > 0")}
    finally:
        db.close()


GROUPS_OF = """select id_agent, name from belongs join "group" on id = id_group where id_agent > 0
order by id_agent, priority"""


def groups_of(node: RigNode, *, is_master: bool) -> dict[str, dict[int, tuple[str, ...]]]:
    """Returns the groups of every agent: of the node's own database, and of a candidate's replica."""
    names = {"own": schema.DATABASE}
    if node.advertised and not is_master:
        names["replica"] = REPLICA_FILE
    found: dict[str, dict[int, tuple[str, ...]]] = {}
    for name, path in names.items():
        groups = found[name] = {}
        try:
            with contextlib.closing(schema.connect(str(node.root), readonly=True, name=path)) as db:
                for agent, group in db.execute(GROUPS_OF):
                    groups[agent] = (*groups.get(agent, ()), group)
        except sqlite3.Error:
            continue
    return found
