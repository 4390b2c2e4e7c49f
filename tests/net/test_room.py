"""Room for large bodies when many peers send theirs very slowly: no other peer waits long, least of all for an echo or
a keepalive."""

import socket
import time
from collections.abc import Callable

import pytest

from clusterd.messages.links import PeerRequest, Release, Reply
from clusterd.net.slabs import HEAP_BYTES, HOLD_S, OWN_HOLD_S, SMALL_BYTES, NetSlabs
from clusterd.wire.events import Sink
from clusterd.wire.frame import HEADER, command_field
from ipc.arena import Arena
from tests.net.harness import CLUSTER, KEY, VERSION, NetNode, Talker, wait_until
from tools.rig.patience import Patience

Master = Callable[..., NetNode]
LARGE = 6_000_000
ATTACKERS = 40
QUICK_HOLD_S = 2.0


def join_from(node: NetNode, source: str, name: str) -> Talker:
    """A node that connects from this address of the loopback network."""
    talker = Talker(socket.create_connection(node.address, timeout=60, source_address=(source, 0)), KEY)
    node._clients.append(talker)
    assert talker.ask("hello", f"{name} {CLUSTER} worker {VERSION}").command == b"ok"
    return talker


class Trickle:
    """Links that have each begun a large body and send just fast enough not to be closed."""

    def __init__(self, node: NetNode, sources: list[str]) -> None:
        self.links = []
        self._at = 0.0
        for number in range(ATTACKERS):
            link = join_from(node, sources[number % len(sources)], f"attacker{number}")
            link.send(HEADER.pack(1, LARGE, command_field("file_upd")) + bytes(300_000))
            link.sock.setblocking(False)
            self.links.append(link)

    def go_on(self) -> None:
        """32 KB a second: while others wait, the required minimum is 26."""
        if time.monotonic() - self._at < 0.5:
            return
        self._at = time.monotonic()
        for link in self.links:
            try:
                link.sock.send(bytes(16_384))
            except OSError:
                continue  # not read at the moment, or let go


def works(node: NetNode, trickle: Trickle, source: str) -> None:
    """A node at this address sends large and small bodies, echoes and keepalives while the others send slowly."""
    honest = join_from(node, source, "honest")
    sync = node.sync
    assert sync is not None
    link = sync.link("honest").link

    def answered(counter: int) -> bool:
        trickle.go_on()
        try:
            return honest.answer_to(counter, 0.1).command in (b"ok", b"ok-m")
        except TimeoutError:
            return False

    for round_ in range(2):
        for size in (100_000, 700_000, 4_000_000):
            counter = honest.tell("file_upd", bytes([round_]) * size)
            patience = Patience(60)
            while not any(isinstance(one, PeerRequest) and one.link == link for one in sync.received):
                trickle.go_on()
                sync.quiet(PeerRequest, 0.05)
                assert not patience.is_over(), f"{size} bytes came in no time"
            request = sync.expect(PeerRequest, lambda one: one.link == link)
            assert request.body
            sync.send(Reply(link, request.serial, "ok", b"File updated"))
            sync.send(Release([part.slab for part in request.body]))
            wait_until(lambda number=counter: answered(number), "the answer", 60)
        for command in ("echo", "echo-c"):
            counter = honest.tell(command, "keepalive")
            wait_until(lambda number=counter: answered(number), f"{command} is answered", 60)


@pytest.mark.slow
def test_forty_slow_links_of_one_address_delay_no_other(master: Master) -> None:
    node = master(slabs=(16, 4))
    trickle = Trickle(node, ["127.0.0.66"])
    works(node, trickle, "127.0.0.2")
    assert not node.lines("while others waited for room")  # there was no need to


@pytest.mark.slow
def test_forty_slow_links_of_many_addresses_are_closed_when_others_wait(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterd.net.slabs.HOLD_S", QUICK_HOLD_S)  # the node is forked from this process
    monkeypatch.setattr("clusterd.net.process.HOLD_S", QUICK_HOLD_S)
    node = master(slabs=(16, 4))
    trickle = Trickle(node, [f"127.0.1.{number}" for number in range(1, 21)])
    works(node, trickle, "127.0.0.2")
    node.logged(f"a large message took more than {QUICK_HOLD_S:g} seconds while others waited for room")


def test_small_bodies_need_no_slab_while_they_arrive(master: Master) -> None:
    node = master(slabs=(1, 1))
    for number in range(5):
        link = node.join(f"slow{number}")
        link.send(HEADER.pack(1, 900_000, command_field("file_upd")) + bytes(1000))
    wait_until(lambda: node.counter("connections") == 5, "all are there")
    assert node.sync is not None
    node.join("w1").tell("file_upd", bytes(500_000))
    assert node.sync.expect(PeerRequest).body


# ---- the books -------------------------------------------------------------------------------------------------------


def nothing(link: int) -> int:
    """Returns whether no link has bytes to receive."""
    return 0


class Books:
    """Net's room for bodies, with a clock that the test moves."""

    def __init__(self, count: int = 16) -> None:
        self.now = 0.0
        self.arena = Arena(count, 1)
        self.slabs = NetSlabs(self.arena, lambda: self.now)

    def take(self, link: int, caller: str, length: int = LARGE) -> Sink | None:
        return self.slabs.sink(link, length, caller)

    def fill(self, caller: str, first: int = 1) -> list[Sink]:
        """Takes as much room as this caller gets, each piece for a link of its own."""
        taken = []
        while (sink := self.take(first + len(taken), caller)) is not None:
            taken.append(sink)
        return taken


def test_a_caller_with_many_links_leaves_room_to_others() -> None:
    books = Books()
    one = books.fill("one")
    assert len(one) < 16 + HEAP_BYTES // LARGE
    two = books.take(1000, "two")
    assert two is not None
    assert books.slabs.free >= 1


def test_what_is_complete_finds_a_slab_although_receivers_have_taken_all_they_get() -> None:
    books = Books()
    small = [
        sink for number in range(3) if (sink := books.take(2000 + number, f"early{number}", SMALL_BYTES)) is not None
    ]
    assert len(small) == 3
    for number in range(20):
        books.fill(f"caller{number}", 1 + 100 * number)
    landed = [books.slabs.land(sink) for sink in small[:2]]
    assert None not in landed


def test_the_caller_with_least_is_served_first_when_there_is_room_again() -> None:
    books = Books()
    taken = [sink for number in range(20) for sink in books.fill(f"caller{number}", 1 + 100 * number)]
    assert books.take(5000, "caller0") is None
    assert books.take(6000, "new") is None
    served: list[int] = []
    for link in (5000, 6000):
        books.slabs.wait(link, lambda link=link: served.append(link))  # type: ignore[misc]
    books.slabs.drop([sink for sink in taken if isinstance(sink.token, tuple) and sink.token[0] >= 0][:3], 0.0)
    books.slabs.wake()
    assert served[0] == 6000


def test_no_link_is_overdue_until_another_waits_and_then_the_one_with_most_is_first() -> None:
    books = Books()
    many = {token_link(sink) for sink in books.fill("many")}
    rest = [sink for number in range(20) for sink in books.fill(f"caller{number}", 1000 + 100 * number)]
    assert rest
    books.now = HOLD_S + 1
    assert books.slabs.overdue(nothing) == []
    assert books.take(9000, "new") is None
    books.slabs.wait(9000, lambda: None)
    assert books.slabs.overdue(nothing)[0] in many
    books.now = 0.0
    assert books.slabs.overdue(nothing) == []


def test_of_several_that_take_too_long_the_slowest_is_closed_first() -> None:
    """Not the link that began first: it may be nearly done."""
    books = Books()
    first, second, third = (token_link(sink) for sink in books.fill("site")[:3])
    for number in range(20):
        books.fill(f"caller{number}", 1000 + 100 * number)
    assert books.take(9000, "new") is None
    books.slabs.wait(9000, lambda: None)
    books.now = HOLD_S
    missing = {first: 1000, second: LARGE - 1, third: LARGE // 2}
    late = books.slabs.overdue(lambda link: missing.get(link, 0))
    assert late[:1] == [second]
    assert late.index(third) < late.index(first)


def test_links_of_one_address_do_not_end_each_other_so_soon() -> None:
    """Fifty workers behind one address, on a slow line: twelve large bodies at a time take longer than one alone."""
    books = Books()
    busy = {token_link(sink) for sink in books.fill("site")}
    assert books.take(9000, "site") is None
    books.slabs.wait(9000, lambda: None)
    books.now = OWN_HOLD_S - 1
    assert books.slabs.overdue(nothing) == []
    books.slabs.sink(9001, LARGE, "another")
    for number in range(20):
        books.fill(f"caller{number}", 1000 + 100 * number)
    assert books.take(9500, "new") is None
    books.slabs.wait(9500, lambda: None)
    assert books.slabs.overdue(nothing)[0] in busy
    books.slabs.forget(9500)
    assert books.slabs.overdue(nothing) == []
    books.now = OWN_HOLD_S
    assert set(books.slabs.overdue(nothing)) >= busy


def test_everything_comes_back_with_the_links() -> None:
    books = Books()
    taken = [sink for number in range(20) for sink in books.fill(f"caller{number}", 1 + 100 * number)]
    taken += [sink for number in range(40) if (sink := books.take(7000 + number, "small", 100_000)) is not None]
    for link in list(books.slabs._accounts):
        books.slabs.forget(link)
    books.slabs.drop(taken, 0.0)
    assert books.slabs.free == 16
    for held in (
        books.slabs._owned_by,
        books.slabs._accounts,
        books.slabs._begun,
        books.slabs._heap,
        books.slabs._heap_by,
    ):
        assert not held


def token_link(sink: Sink) -> int:
    assert isinstance(sink.token, tuple)
    link: int = sink.token[1]
    return link
