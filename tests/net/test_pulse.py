"""A peer that has agreed to a pulse and is silent is lost within seconds; what a peer waits for is sent even after a
stall."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from clusterd.listening.addresses import look_up, look_up_soon, meant_by, plain
from clusterd.messages.links import LinkDown, LinkUp, Request, TaskNote, Unanswered
from clusterd.net.connect import connect, in_turn
from clusterd.net.pulse import PULSE_S, SILENT_S, Pulse
from tests.net.harness import CLUSTER, VERSION, NetNode, Talker, wait_until
from tools.rig.ports import free_port

Master = Callable[..., NetNode]
STEP_S = 0.5
QUICK_PULSE_S, QUICK_MISSED_S, QUICK_SILENT_S = 0.9, 2.5, 6.0
CHUNK = b"x" * 60_000


def agree(node: NetNode, name: str) -> int:
    """Lets sync say that this worker has agreed to a pulse. Returns its link."""
    assert node.sync is not None
    link = node.sync.link(name).link
    node.sync.send(TaskNote(link, "caps", "digest,pulse", True))
    return link


# ---- arithmetic ------------------------------------------------------------------------------------------------------


class Beaten:
    """A pulse, and the clock that drives it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pulse = Pulse(self.now)

    def beat(self, seconds: float, bytes_in: int = 0, bytes_out: int = 0, *, is_read: bool = True) -> None:
        for _ in range(int(seconds / STEP_S)):
            self.now += STEP_S
            self.pulse.beat(self.now, bytes_in, bytes_out, is_read=is_read)


def test_a_peer_is_lost_when_nothing_came_for_long_enough() -> None:
    link = Beaten()
    link.beat(SILENT_S)
    assert not link.pulse.is_lost
    link.beat(2 * STEP_S)
    assert link.pulse.is_lost


def test_any_received_byte_proves_that_the_peer_lives() -> None:
    link = Beaten()
    for number in range(10):
        link.beat(SILENT_S - 1, bytes_in=number)
        assert not link.pulse.is_lost


def test_time_in_which_we_do_not_read_or_do_not_run_is_not_the_peers() -> None:
    link = Beaten()
    link.beat(10 * SILENT_S, is_read=False)
    assert not link.pulse.is_lost
    link.now += 1000
    link.beat(STEP_S)
    assert not link.pulse.is_lost


def test_a_pulse_is_due_when_nothing_else_was_sent() -> None:
    link = Beaten()
    link.beat(PULSE_S - STEP_S, bytes_out=5)
    assert not link.pulse.is_due
    link.beat(PULSE_S - STEP_S, bytes_out=6)
    assert not link.pulse.is_due
    link.beat(2 * STEP_S, bytes_out=6)
    assert link.pulse.is_due


def test_a_process_that_is_held_up_sends_its_pulse_as_soon_as_it_runs() -> None:
    """Its silence is long for the other end, even if it looks at its clock rarely."""
    link = Beaten()
    link.beat(STEP_S, bytes_out=5)
    link.now += PULSE_S
    link.beat(STEP_S, bytes_out=5)
    assert link.pulse.is_due
    assert link.pulse.silent_s < 2 * STEP_S + 1


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter times for the nodes of a test, which are forked from it."""
    monkeypatch.setattr("clusterd.net.pulse.PULSE_S", QUICK_PULSE_S)
    monkeypatch.setattr("clusterd.net.listen.MISSED_S", QUICK_MISSED_S)
    monkeypatch.setattr("clusterd.net.pulse.SILENT_S", QUICK_SILENT_S)
    monkeypatch.setattr("clusterd.net.link.SILENT_S", QUICK_SILENT_S)


@pytest.mark.usefixtures("quick")
def test_only_a_silent_peer_that_agreed_to_a_pulse_is_disconnected(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pulse", "link"):
        monkeypatch.setattr(f"clusterd.net.{module}.SILENT_S", QUICK_MISSED_S)
    node = master()
    assert node.sync is not None
    silent, stock = node.join("silent"), node.join("stock")
    link = agree(node, "silent")
    asked = silent.read(60)
    assert (asked.command, asked.payload) == (b"echo", b"pulse")
    down = node.sync.expect(LinkDown, lambda down: down.link == link, 60)
    assert down.reason.startswith("nothing has come")
    assert down.silent_s == QUICK_MISSED_S
    assert silent.is_closed()
    assert stock.ask("echo", "there").payload == b"there"
    assert not node.lines("Command received: b'echo'")[1:]  # but for that one


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_peer_that_only_answers_pulses_stays(master: Master) -> None:
    node = master()
    assert node.sync is not None
    talker = node.join("w1")
    agree(node, "w1")
    for _ in range(int(QUICK_SILENT_S / QUICK_PULSE_S) + 2):
        asked = talker.read(60)
        assert (asked.command, asked.payload) == (b"echo", b"pulse")
        talker.respond(asked, "ok", asked.payload)
    assert talker.ask("echo", "there").payload == b"there"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_node_that_reconnects_replaces_its_silent_connection(master: Master) -> None:
    node = master()
    assert node.sync is not None
    before = node.join("w1")
    link = agree(node, "w1")

    def comes_again() -> Talker | None:
        talker = node.connect()
        answer = talker.ask("hello", f"w1 {CLUSTER} worker {VERSION}")
        return talker if answer.command == b"ok" else None

    again = wait_until(comes_again, f"the name is free after {QUICK_MISSED_S} s", 60)
    assert again.ask("echo", "there").payload == b"there"
    assert before.is_closed()
    changes = []
    while len(changes) < 2:
        changes.append(node.sync.expect(LinkUp | LinkDown))  # type: ignore[arg-type]
    assert isinstance(changes[0], LinkDown)
    assert changes[0].link == link
    assert isinstance(changes[1], LinkUp)
    assert changes[1].info.name == "w1"


@pytest.mark.slow
def test_what_a_peer_waits_for_is_sent_although_no_task_waits_for_the_answer(master: Master) -> None:
    """A stall that is longer than the time-out of requests: otherwise a worker waits two minutes for a package that is
    not coming."""
    node = master()
    sync = node.sync
    assert sync is not None
    talker = node.join("w1")
    link = sync.link("w1").link
    for number in range(1, 301):  # more than the system buffers
        sync.send(Request(link, number, "syn_changed", CHUNK, timeout_s=60))
    sync.send(Request(link, 301, "syn_m_c_r", b"task failed", timeout_s=0.1))
    sync.send(Request(link, 302, "get_diff", b"", timeout_s=0.1))
    for number, why in ((301, "timeout"), (302, "unsent")):
        assert sync.expect(Unanswered, lambda gone, number=number: gone.id == number).why == why  # type: ignore[misc]
    sync.send(Request(link, 303, "syn_m_c", b"", timeout_s=60))
    read = [talker.read().command for _ in range(302)]
    assert read[-2:] == [b"syn_m_c_r", b"syn_m_c"]
    assert b"get_diff" not in read


# ---- connecting ------------------------------------------------------------------------------------------------------


def address(host: str, port: int) -> tuple[int, int, int, str, tuple[str, int]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, 0, "", (host, port)


def test_addresses_of_both_families_are_tried_in_turn() -> None:
    found = [address(host, 1) for host in ("::1", "::2", "::3", "1.1.1.1", "1.1.1.2")]
    assert [one[4][0] for one in in_turn(found)] == ["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]


def test_of_several_addresses_one_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as good, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        full_port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # its queue is full: nobody answers there, as on a machine that is gone
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", full_port))
        addresses = [
            address("127.0.0.1", free_port()),
            address("127.0.0.1", full_port),
            address("127.0.0.1", good.getsockname()[1]),
        ]

        async def found() -> tuple[str, int]:
            loop = asyncio.get_running_loop()

            async def names(*_: object, **__: object) -> object:
                return addresses

            monkeypatch.setattr(loop, "getaddrinfo", names)
            sock = await connect(await look_up_soon("master.example", 1516))
            try:
                return sock.getpeername()  # type: ignore[no-any-return]
            finally:
                sock.close()

        assert asyncio.run(found()) == good.getsockname()
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("name", ["10.0.0..1", f"{'m' * 64}.example", "."])
def test_text_that_can_be_no_name_is_a_failure_like_any_other(name: str) -> None:
    """The dialler tries the next address, as for one that does not answer."""

    async def story() -> None:
        with pytest.raises(OSError, match="no name of a host"):
            await look_up_soon(name, 1)

    asyncio.run(story())
    with pytest.raises(OSError, match="no name of a host"):
        look_up(name, 1)


def test_the_last_failure_is_reported_when_none_answers() -> None:
    async def story() -> None:
        with pytest.raises(ConnectionRefusedError, match="Connection refused"):
            await connect(await look_up_soon("127.0.0.1", free_port()))

    asyncio.run(story())


def test_name_is_told_with_what_it_means_and_ipv4_as_such() -> None:
    found = [address(host, 1) for host in ("fd00::2", "10.0.0.1", "10.0.0.1")]
    assert meant_by("master.lab", found) == "master.lab is 10.0.0.1, fd00::2"
    assert meant_by("10.0.0.1", found[1:]) == meant_by("fd00:0::2%d0", found[:1]) == meant_by("master.lab", []) == ""
    assert [plain(host) for host in ("::ffff:10.0.0.1", "::ffff:a00:1", "fd00::1", "10.0.0.1", "")] == [
        "10.0.0.1",
        "::ffff:a00:1",
        "fd00::1",
        "10.0.0.1",
        "",
    ]


LINK_LOCAL = """
import asyncio, socket, uvloop
from clusterd.listening.addresses import look_up_soon
from clusterd.net.connect import connect

async def story():
    with socket.socket(socket.AF_INET6) as good:
        good.bind((await look_up_soon("fe80::9%d0", 0))[0][4])
        good.listen()
        (await connect(await look_up_soon("fe80::9%d0", good.getsockname()[1]))).close()
        print("connected")

uvloop.run(story())
"""
NETWORK = """
ip link set lo up && ip link add d0 type veth peer name d1 && ip link set d1 up && ip link set d0 up &&
ip addr add fe80::9/64 dev d0 nodad"""


def test_link_local_address_is_dialled_on_its_interface() -> None:
    if subprocess.run(["unshare", "-rn", "sh", "-c", NETWORK], capture_output=True, check=False).returncode:
        pytest.skip("no network of its own can be made here")
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", f'{NETWORK} && exec "$0" -c "$1"', sys.executable, LINK_LOCAL],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("connected\n", "")
