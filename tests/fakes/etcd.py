"""An etcd in memory with the interface of clusterd/election/etcd.py, and nodes of an election that tests control. The
clock stands still until a test moves it."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.election.elector import Elector
from clusterd.election.etcd import Compare, Delete, EtcdUnavailable, Item, LeaseLost, Put, Snapshot, TxnResult
from clusterd.election.facts import Facts, Kept, Lacking
from clusterd.election.session import Identity
from clusterd.errors import ClusterError
from clusterd.messages.election import HeldChanges
from clusterd.messages.journal import ElectionEvent
from ipc.board import FOR_EVER_NS


class HandClock:
    """Both clocks of an elector."""

    def __init__(self) -> None:
        self.now = 1000.0

    def boot(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now


class EtcdStore:
    """The state that all clients share. `wipe`: as after the loss of all members."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.revision = 1
        self.items: dict[str, Item] = {}
        self.leases: dict[int, tuple[float, int]] = {}
        self._next_lease = 1000

    def expire(self) -> None:
        dead = [lease for lease, (ends, _) in self.leases.items() if ends <= self.clock.now]
        for lease in dead:
            self.end_lease(lease)

    def end_lease(self, lease: int) -> None:
        self.leases.pop(lease, None)
        gone = [key for key, item in self.items.items() if item.lease == lease]
        if gone:
            self.revision += 1
        for key in gone:
            del self.items[key]

    def grant(self, ttl_s: int) -> int:
        self._next_lease += 1
        self.leases[self._next_lease] = self.clock.now + ttl_s, ttl_s
        return self._next_lease

    def put(self, key: str, value: bytes, lease: int = 0) -> None:
        self.revision += 1
        self._put(key, value, lease)

    def _put(self, key: str, value: bytes, lease: int) -> None:
        old = self.items.get(key)
        self.items[key] = Item(value, self.revision if old is None else old.create_revision, self.revision, lease)

    def holds(self, one: Compare) -> bool:
        item = self.items.get(one.key)
        if item is None:
            return one.equals == 0
        return bool(getattr(item, one.what) == one.equals)

    def txn(self, when: list[Compare], then: list[Put | Delete]) -> TxnResult:
        if not all(map(self.holds, when)):
            return TxnResult(False, self.revision)
        if any(isinstance(one, Put) and one.lease and one.lease not in self.leases for one in then):
            raise LeaseLost("requested lease not found")
        if then:
            self.revision += 1
        for one in then:
            if isinstance(one, Put):
                self._put(one.key, one.value, one.lease)
            else:
                self.items.pop(one.key, None)
        return TxnResult(True, self.revision)

    def wipe(self) -> None:
        self.items.clear()
        self.leases.clear()
        self.revision = 1


class EtcdDouble:
    """One node's client. `away`: no request arrives; `lost_answers`: requests are done, answers are lost; `is_late`: a
    transaction waits in a frozen member until `thaw`, long after its client has given up; `slow_s`: each call moves the
    clock by this much; `during`: called between a request and its effect."""

    def __init__(self, store: EtcdStore) -> None:
        self.store = store
        self.away = False
        self.lost_answers = self.is_late = False
        self.waiting: list[Callable[[], TxnResult]] = []
        self.slow_s = 0.0
        self.during: Callable[[str], None] = lambda call: None
        self.calls: list[str] = []

    async def _call(self, name: str, work: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        self.calls.append(name)
        self.store.clock.now += self.slow_s / 2
        if self.away:
            raise EtcdUnavailable("no member answers")
        self.during(name)
        self.store.expire()
        found = work()
        self.store.clock.now += self.slow_s / 2
        if self.lost_answers:
            raise EtcdUnavailable("no member answers")
        return found

    async def grant(self, ttl_s: int) -> int:
        return int(await self._call("grant", lambda: self.store.grant(ttl_s)))

    async def keep_alive(self, lease: int) -> int:
        def renew() -> int:
            if lease not in self.store.leases:
                raise LeaseLost("etcd does not know this lease any more")
            ttl_s = self.store.leases[lease][1]
            self.store.leases[lease] = self.store.clock.now + ttl_s, ttl_s
            return ttl_s

        return int(await self._call("keep_alive", renew))

    async def revoke(self, lease: int) -> None:
        await self._call("revoke", lambda: self.store.end_lease(lease))

    async def read(self, prefix: str) -> Snapshot:
        def read() -> Snapshot:
            items = {key: item for key, item in self.store.items.items() if key.startswith(prefix)}
            return Snapshot(self.store.revision, items)

        found: Snapshot = await self._call("read", read)
        return found

    async def txn(self, when: list[Compare], then: list[Put | Delete]) -> TxnResult:
        if self.is_late:
            self.waiting.append(lambda: self.store.txn(when, then))
            raise EtcdUnavailable("no member answers")
        found: TxnResult = await self._call("txn", lambda: self.store.txn(when, then))
        return found

    def thaw(self) -> int:
        """Does the waiting transactions. Returns how many of them had an effect."""
        waiting, self.waiting, self.is_late = self.waiting, [], False
        return sum(one().succeeded for one in waiting)


_lives = itertools.count(1)


def another_life(facts: Facts) -> Facts:
    """Begins another life of the log, as the store does (clusterd/store/change_log.py)."""
    past = (*facts.past, (facts.epoch, facts.position))[-8:]
    return msgspec.structs.replace(facts, epoch=f"life {next(_lives)}", past=past)


class NodeDouble:
    """The node of an elector. `true`: its facts, which a test changes; a change of role ends when `end_change` is
    called, or at once with `prompt`. `board_words`: what the processes of the node read. A former master has its own
    database as its replica."""

    def __init__(self, clock: HandClock, facts: Facts) -> None:
        self.clock = clock
        self.true = facts
        self.prompt = True
        self.fails = ""
        self.board_words = (0, 0)
        self.programs: list[str] = []
        self.events: list[str] = []
        self.lines: list[str] = []
        self.saved: Kept | None = None
        self.agreed: dict[str, bool] | None = None
        self.asked: list[tuple[str, ...]] = []
        self.on_ask: Callable[[], None] = lambda: None
        self.drained: int | None = None
        self.runs, self.changed_at, self.is_held = "", float("-inf"), False
        """What changes files, and when the last change ended."""
        self.drains = True
        self.files: dict[str, Lacking] = {}
        """What workers lack of the files of this node."""
        self.pending: Facts | None = None
        self.demotions = 0
        self.without_agents = 0
        self.is_full = False
        self.asked_for_s = 0.0
        self.is_linked = True
        """Whether this candidate is linked to its master, which sends it something again and again."""
        self.told = 0
        self.forgotten: list[str] = []

    def serves(self) -> bool:
        """What every process of the node asks before it takes a request (clusterd/leadership.py)."""
        term, until_ns = self.board_words
        facts = self.true
        is_leading = facts.is_master and not facts.is_changing and facts.led == term > 0
        return is_leading and (until_ns == FOR_EVER_NS or self.clock.now * 1e9 < until_ns)

    def facts(self) -> Facts:
        self.told += self.is_linked
        return msgspec.structs.replace(self.true, heard_at=float(self.told))

    async def refresh(self, *, files: bool = True) -> None:
        await asyncio.sleep(0)

    def board(self) -> tuple[int, int]:
        return self.board_words

    def lead(self, term: int, until_ns: int) -> None:
        self.board_words = term, until_ns

    def set(self, **changes: Any) -> None:
        self.true = msgspec.structs.replace(self.true, **changes)

    def begin_promotion(self, term: int, former: tuple[str, ...], *, keeps_agents: bool, without_agents: bool) -> str:
        if self.true.is_changing:
            return "a change of role is under way"
        before = self.true
        self.without_agents += without_agents
        after = msgspec.structs.replace(
            before, is_master=True, is_deposed=False, term=term, led=term, state="master", failed=""
        )
        after = another_life(after)
        self._begin(before, msgspec.structs.replace(after, past=()) if without_agents else after, term)
        return ""

    def begin_demotion(self, term: int, master: str, name: str) -> str:
        if self.true.is_changing:
            return "a change of role is under way"
        before = self.true
        self.demotions += 1
        after = msgspec.structs.replace(
            before, is_master=False, is_deposed=False, term=term, master=master, master_name=name, state="following"
        )
        self._begin(before, after, term)
        return ""

    def start_store(self) -> None:
        """Restarts the master's store: its log begins another life."""
        if self.true.state == "master":
            self.true = another_life(self.true)

    def _begin(self, before: Facts, after: Facts, term: int) -> None:
        self.true = msgspec.structs.replace(before, is_changing=True, term=term)
        self.pending = msgspec.structs.replace(before, failed=self.fails) if self.fails else after
        if self.prompt:
            self.end_change()

    def end_change(self) -> None:
        if self.pending is not None:
            self.true, self.pending = self.pending, None

    def hear_of(self, term: int, master: str, name: str) -> str:
        if term > self.true.term or not self.true.is_master:
            self.set(term=term, master=master, master_name=name)
        return ""

    async def hold(self, for_s: float) -> HeldChanges:
        await asyncio.sleep(0)
        self.is_held = for_s > 0
        changed_s = self.clock.now - self.changed_at
        return HeldChanges(self.runs, None if changed_s == float("inf") else changed_s)

    async def drain(self, for_s: float) -> int:
        await asyncio.sleep(0)
        if not self.drains:
            raise ClusterError(1000, "it does not answer")
        self.drained = self.true.position
        return self.true.position

    async def undrain(self) -> None:
        self.drained, self.is_held = None, False

    async def settle(self) -> None:
        await asyncio.sleep(0)

    async def lacking(self, name: str) -> Lacking:
        await asyncio.sleep(0)
        return self.files.get(name, Lacking())

    async def forget(self, name: str) -> None:
        self.forgotten.append(name)
        self.set(known=tuple(one for one in self.true.known if one != name))

    async def ask_failsafe(self, term: int, leader: str, nodes: tuple[str, ...], for_s: float) -> dict[str, bool]:
        self.asked_for_s = for_s
        self.asked.append(nodes)
        self.on_ask()
        return dict.fromkeys(nodes, True) if self.agreed is None else self.agreed

    def run_program(self, kind: str, term: int, leader: str) -> None:
        self.programs.append(f"{kind} {term}")

    def keep(self, state: Kept) -> bool:
        if not self.is_full:
            self.saved = state
        return not self.is_full

    def kept(self) -> Kept | None:
        return self.saved

    def say(self, level: str, text: str) -> None:
        self.lines.append(f"{level} {text}")

    def tell(self, event: ElectionEvent) -> None:
        self.events.append(event.what)


class Voter:
    """A node with its elector; `restart` begins a new life of the process `election`."""

    def __init__(self, store: EtcdStore, name: str, facts: Facts, **more: Any) -> None:
        self.store, self.name = store, name
        self.etcd = EtcdDouble(store)
        self.node = NodeDouble(store.clock, facts)
        options: dict[str, Any] = {"cluster": "wazuh", "fingerprint": "f", "prefix": "/clusterd/wazuh/"} | more
        self.me = Identity(name=name, advertise=f"{name}:1516", **options)
        self.elector = Elector(self.me, self.etcd, self.node, store.clock)

    def restart(self) -> None:
        self.elector = Elector(self.me, self.etcd, self.node, self.store.clock)

    def reboot(self) -> None:
        """The whole node was killed and has started again."""
        self.node.board_words, self.node.saved = (0, 0), None
        self.node.end_change()
        self.node.start_store()
        self.restart()

    async def step(self, count: int = 1) -> None:
        for _ in range(count):
            await self.elector.step()

    @property
    def leads(self) -> bool:
        return self.node.serves()


def master(**more: Any) -> Facts:
    """A configured master that has never voted."""
    return Facts(
        **{
            "is_configured_master": True,
            "is_master": True,
            "is_known": True,
            "state": "master",
            "epoch": "e",
            "position": 10,
        }
        | more
    )


def candidate(**more: Any) -> Facts:
    """A worker with a whole replica of that master."""
    return Facts(**{"is_known": True, "state": "following", "epoch": "e", "position": 10, "lag": 0} | more)
