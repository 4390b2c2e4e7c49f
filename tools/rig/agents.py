"""Simulated agents: registered, reporting through their worker, moving to another one. The last report of each is kept
in DIR/agents.json, so that the databases can be compared with it (databases.py).

A request counts as reported only after its answer: it is repeated if a store dies meanwhile.
"""

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from tools.rig.agents_talk import REPEAT_S, Agent, Patient, Row, keep_alive, say_goodbye, tell_everything
from tools.rig.nodes import AGENTS, Rig, RigError, RigNode
from tools.rig.wdb_client import WdbClient, WdbError, WdbRefused, authd

LARGEST_REQUEST = 60_000
Told = Callable[[int], None]


@dataclass
class AgentsOutcome:
    """`done`: how many of the requested actions succeeded; `failures`: text to its count."""

    done: int = 0
    seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0


class Fleet:
    """The agents of one rig. `load` them or begin without any; `save` after changes."""

    def __init__(self, rig: Rig) -> None:
        if not rig.workers:
            raise RigError("agents report through workers, and this rig has none: make it with --workers 1 or more")
        self._rig = rig
        self._path = rig.directory / AGENTS
        self._lock = threading.Lock()
        self.agents: dict[int, Agent] = {}

    @classmethod
    def load(cls, rig: Rig) -> "Fleet":
        """Raises RigError for a damaged record."""
        fleet = cls(rig)
        try:
            stored = json.loads(fleet._path.read_text())
            fleet.agents = {int(agent_id): Agent(**agent) for agent_id, agent in stored.items()}
        except FileNotFoundError:
            return fleet
        except (ValueError, TypeError) as damage:
            raise RigError(f"{fleet._path} is damaged ({damage}): remove it, or make a new rig") from None
        return fleet

    def save(self) -> None:
        beside = self._path.with_name(f".{AGENTS}.new")
        beside.write_text(json.dumps({str(agent_id): asdict(agent) for agent_id, agent in self.agents.items()}))
        beside.replace(self._path)

    def truth(self) -> dict[int, Row]:
        """Returns what the master should know of each agent that has reported."""
        return {agent_id: agent.row for agent_id, agent in self.agents.items() if agent.row is not None}

    # ---- registration ------------------------------------------------------------------------------------------------

    def add(
        self, count: int, *, through: RigNode, prefix: str, groups: str, clients: int, on_step: Told = lambda done: None
    ) -> AgentsOutcome:
        """Registers agents over the authd socket of a node, `clients` at a time. Raises RigError when no process serves
        it."""
        names = iter(self._new_names(prefix, count))
        outcome, began = AgentsOutcome(), time.monotonic()
        self._ask_authd(through, {"function": "get", "arguments": {"id": "0"}})

        def client() -> None:
            while True:
                with self._lock:
                    name = next(names, None)
                if name is None:
                    return
                arguments = {"name": name, "ip": "any"} | ({"groups": groups} if groups else {})
                try:
                    answer = self._ask_authd(through, {"function": "add", "arguments": arguments})
                except RigError as failure:
                    answer = {"error": 1, "message": str(failure)}
                with self._lock:
                    if answer["error"]:
                        outcome.failures[answer["message"]] = outcome.failures.get(answer["message"], 0) + 1
                    else:
                        outcome.done += 1
                        self.agents[int(answer["data"]["id"])] = Agent(name, self._worker_for(outcome.done))
                    on_step(outcome.done)

        _run_threads([client] * clients)
        outcome.seconds = time.monotonic() - began
        return outcome

    def add_direct(self, count: int, *, prefix: str, on_step: Told = lambda done: None) -> AgentsOutcome:
        """Inserts agents into every node's database, and writes their keys to the master's client.keys: for large
        set-ups."""
        began = time.monotonic()
        first = max(self.agents, default=0) + 1
        fresh = dict(zip(range(first, first + count), self._new_names(prefix, count), strict=True))
        outcome = AgentsOutcome()

        def insert(node: RigNode) -> None:
            with Patient(node.root) as client:
                for agent_id, name in fresh.items():
                    request = {"id": agent_id, "name": name, "register_ip": "any", "date_add": 1700000000}
                    try:
                        client.command(f"global insert-agent {json.dumps(request)}")
                    except WdbRefused as refusal:
                        if "UNIQUE" not in str(refusal):
                            raise
                    if node is self._rig.master:
                        outcome.done += 1
                        on_step(outcome.done)

        _run_threads([lambda node=node: insert(node) for node in self._rig.nodes])  # type: ignore[misc]
        keys = self._rig.master.root / "etc/client.keys"
        before = keys.read_text() if keys.exists() else ""
        beside = keys.with_name(".client.keys.tmp")
        beside.write_text(before + "".join(f"{n:03d} {name} any {_key(name)}\n" for n, name in fresh.items()))
        beside.chmod(0o640)
        beside.replace(keys)
        for number, (agent_id, name) in enumerate(fresh.items()):
            self.agents[agent_id] = Agent(name, self._worker_for(number))
        outcome.seconds = time.monotonic() - began
        return outcome

    def remove(self, agent_ids: list[int]) -> None:
        """Deletes agents through the master's authd. Raises RigError."""
        for agent_id in agent_ids:
            until = time.monotonic() + REPEAT_S
            while True:
                try:
                    self._ask_authd(
                        self._rig.master, {"function": "remove", "arguments": {"id": f"{agent_id:03d}", "purge": True}}
                    )
                    break
                except RigError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.05)
            self.agents.pop(agent_id, None)

    def _new_names(self, prefix: str, count: int) -> list[str]:
        taken = {agent.name for agent in self.agents.values()}
        names: list[str] = []
        number = len(taken)
        while len(names) < count:
            number += 1
            if f"{prefix}{number}" not in taken:
                names.append(f"{prefix}{number}")
        return names

    def _worker_for(self, number: int) -> str:
        return self._rig.workers[number % len(self._rig.workers)].name

    @staticmethod
    def _ask_authd(node: RigNode, request: object) -> Any:
        try:
            return authd(node.root, request, 60)
        except WdbError as failure:
            raise RigError(f"{node.name} registers nobody: {failure}; is it running, with clusterd.store on?") from None

    def wait_known(self, timeout_s: float = 60.0) -> None:
        """Waits until every worker's database has all agents, because a report about an unknown agent is lost. Raises
        RigError."""
        until = time.monotonic() + timeout_s
        for node in self._rig.workers:
            while missing := self.agents.keys() - _known(node):
                if time.monotonic() > until:
                    raise RigError(f"{node.name} does not know {len(missing)} agents after {timeout_s:g} s")
                time.sleep(0.2)

    # ---- reports -----------------------------------------------------------------------------------------------------

    def report(
        self,
        *,
        seconds: float,
        rate: float,
        changes: float,
        moves: float = 0.0,
        deletions: float = 0.0,
        may_go: Callable[[int], bool] = lambda agent_id: True,
        connections: int = 3,
        seed: int | None = None,
        on_step: Told = lambda done: None,
        stop: threading.Event | None = None,
    ) -> AgentsOutcome:
        """Lets agents report through their workers for `seconds` (or until `stop`), `rate` requests a second in all (0:
        as fast as possible).

        `changes`, `moves`, `deletions`: shares of the requests that report all columns anew, are sent through another
        worker, or are the agent's last (removed through authd, of those that `may_go`); the rest are keepalives and
        good-byes. Every agent belongs to one thread."""
        self.wait_known()
        stop = stop or threading.Event()
        outcome, began = AgentsOutcome(), time.monotonic()
        threads = connections * len(self._rig.workers)

        def talk(number: int) -> None:
            mine = [agent_id for agent_id in sorted(self.agents) if agent_id % threads == number]
            chance = random.Random(None if seed is None else seed * 1000 + number)
            said = 0
            with self._speakers() as speakers:
                while mine and not stop.is_set() and time.monotonic() - began < seconds:
                    agent_id = chance.choice(mine)
                    if chance.random() < deletions and may_go(agent_id):
                        mine.remove(agent_id)
                        self.agents[agent_id].row = None
                        self.remove([agent_id])
                        continue
                    said += 1
                    self._talk_once(speakers, agent_id, f"{number}.{said}", chance, changes, moves)
                    with self._lock:
                        outcome.done += 1
                        on_step(outcome.done)
                    if rate:
                        stop.wait(max(0.0, began + said * threads / rate - time.monotonic()))

        _run_threads([lambda number=number: talk(number) for number in range(threads)])  # type: ignore[misc]
        outcome.seconds = time.monotonic() - began
        return outcome

    def _talk_once(
        self,
        speakers: dict[str, Patient],
        agent_id: int,
        version: str,
        chance: random.Random,
        changes: float,
        moves: float,
    ) -> None:
        agent, dice = self.agents[agent_id], chance.random()
        if dice < moves:
            self._move(agent, chance)
        if agent.row is None or dice < moves + changes:
            tell_everything(speakers, agent_id, agent, version, chance)
        elif chance.random() < 0.05:
            say_goodbye(speakers, agent_id, agent)
        else:
            keep_alive(speakers, agent_id, agent)

    @contextlib.contextmanager
    def _speakers(self) -> Iterator[dict[str, Patient]]:
        """Yields a connection to each worker, by name."""
        with contextlib.ExitStack() as stack:
            yield {node.name: stack.enter_context(Patient(node.root)) for node in self._rig.workers}

    def move(self, count: int, *, seed: int | None = None) -> list[int]:
        """Moves `count` agents to another worker; half of them send a good-bye to the old one first. Returns their
        ids."""
        if len(self._rig.workers) < 2:
            raise RigError("agents can only move where there are two workers or more")
        self.wait_known()
        chance = random.Random(seed)
        moved = chance.sample(sorted(self.agents), min(count, len(self.agents)))
        with self._speakers() as speakers:
            for agent_id in moved:
                agent = self.agents[agent_id]
                if agent.row is not None and chance.random() < 0.5:
                    say_goodbye(speakers, agent_id, agent)
                self._move(agent, chance)
                tell_everything(speakers, agent_id, agent, f"moved.{chance.randrange(10**6)}", chance)
        return moved

    def _move(self, agent: Agent, chance: random.Random) -> None:
        others = [node.name for node in self._rig.workers if node.name != agent.worker]
        if others:
            agent.worker = chance.choice(others)


# ---- groups ----------------------------------------------------------------------------------------------------------


def make_group(rig: Rig, name: str, *, timeout_s: float = 30.0) -> None:
    """Creates the directory of a group on the master, if it is missing; waits until the database knows the group."""
    directory = rig.master.root / "etc/shared" / name
    if not directory.is_dir():
        directory.mkdir(mode=0o770)
        directory.chmod(0o777)
        (directory / "agent.conf").write_text("<agent_config></agent_config>\n")
    until = time.monotonic() + timeout_s
    with Patient(rig.master.root) as client:
        while client.command(f"global find-group {name}") == "[]":
            if time.monotonic() > until:
                raise RigError(f"the master's database does not know group {name} after {timeout_s:g} s")
            time.sleep(0.05)


def assign(rig: Rig, name: str, agents: dict[int, Agent], *, mode: str) -> AgentsOutcome:
    """Puts agents into a group (or removes them) on the master, which then hands out the change. Raises WdbRefused."""
    began = time.monotonic()
    head = f'global set-agent-groups {{"mode":"{mode}","sync_status":"syncreq","data":['
    items, used = list[str](), 0
    with Patient(rig.master.root) as client:
        for agent_id, agent in agents.items():
            item = json.dumps({"id": agent_id, "name": agent.name, "groups": [name]})
            if used + len(item) > LARGEST_REQUEST:
                client.command(f"{head}{','.join(items)}]}}")
                items, used = [], 0
            items.append(item)
            used += len(item) + 1
        client.command(f"{head}{','.join(items)}]}}")
    return AgentsOutcome(len(agents), time.monotonic() - began)


def _known(node: RigNode) -> set[int]:
    """Returns the agents in a node's database; none while it does not answer."""
    try:
        with WdbClient(node.root, 15) as client:
            return set(client.ids("get-all-agents last_id"))
    except WdbError:
        return set()


def _key(name: str) -> str:
    return f"{random.Random(name).getrandbits(256):064x}"


def _run_threads(works: list[Callable[[], None]]) -> None:
    """Runs them in parallel; raises the first failure after all have ended."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
