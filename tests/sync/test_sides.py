"""Each role's side of sync, on ports that only the test reads: links come up and go down, programs ask."""

import json
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.bodies import OpenBody, Opened
from clusterd.messages.links import Answered, LinkDown, LinkInfo, MasterAway, PeerRequest
from clusterd.messages.packages import CompareBuckets, Compared
from clusterd.settings import Secret
from clusterd.sync.agents.groups_master import AgentGroupsMaster
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.links.bound import bind
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.requests.api import ApiRequests
from clusterd.sync.side_master import QUIET_S, MasterSide
from clusterd.sync.side_worker import WorkerSide
from clusterd.wire.transfer import IncomingFile
from ipc.descriptor import Descriptor
from tests.sync.scripted_node import MASTER, PROGRAM, STRANGER, WORKER, Node, code_in, on, turns

NAMES = {"sync_now": "sync", "sendasync": "sendsync"}
SENDSYNC = b'{"daemon_name":"authd","message":{"function":"add"}}'


# ---- a worker --------------------------------------------------------------------------------------------------------


def test_worker_tells_its_master_first_what_it_can_do(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")
    assert isinstance(node.side, WorkerSide)

    async def story() -> None:
        peer = await node.up(MASTER)
        await node.request(1, "caps")
        assert node.asked(1) == ["caps"]
        assert not peer._agreed.is_set()

    on(node, story())


def test_worker_whose_capabilities_are_off_asks_nothing_and_waits_for_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker", caps=())

    async def story() -> None:
        peer = await node.up(MASTER)
        assert await peer.agreed() == frozenset()
        await turns()
        assert node.asked(1) == []

    on(node, story())


def test_program_on_a_worker_starts_no_round(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        peer = await node.up(PROGRAM)
        await turns()
        assert (node.asked(9), len(peer._tasks)) == ([], 0)

    on(node, story())


def test_rounds_of_a_worker_end_with_the_link_to_its_master(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        peer = await node.up(MASTER)
        await turns()
        assert len(peer._tasks) == 4  # capabilities, checks, reports of agents, what status shows
        await node.core.handle(LinkDown(1, "it ended"))
        assert (len(peer._tasks), peer.gone.is_set()) == (0, True)
        assert node.context.roster.all() == []

    on(node, story())


def test_request_that_a_master_has_ends_with_its_link(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        await node.up(MASTER)
        await node.up(PROGRAM)
        await node.ask(PROGRAM, "sendsync", SENDSYNC)
        given = await node.request(1, "sendsync")
        await node.core.handle(Answered(given.id, "ok", b"queued"))
        await turns()
        await node.core.handle(LinkDown(1, "it ended"))
        assert code_in((await node.request(9, "err")).payload) == 3023

    on(node, story())


def test_worker_passes_questions_about_nodes_on_to_its_master(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        await node.up(PROGRAM)
        for command in ("get_nodes", "get_health"):
            refused = await node.reply(await node.ask(PROGRAM, command))
            assert (refused.command, code_in(refused.payload)) == ("err", 3023)
        await node.up(MASTER)
        for command in ("get_nodes", "get_health"):
            first = await node.reply(await node.ask(PROGRAM, command, b'{"a": 1}'))
            assert (first.command, first.more) == ("ok", True)
            assert (await node.request(1, command)).payload == b'{"a": 1}'

    on(node, story())


def test_status_of_a_worker_tells_of_its_master_and_of_itself(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        await node.up(PROGRAM)
        await node.core.handle(MasterAway("it refuses us"))
        shown = json.loads((await node.reply(await node.ask(PROGRAM, "status"))).payload)
        assert shown["problem"] == "The master is not connected: it refuses us."
        assert (list(shown["results"]), list(shown["agents"]["syncs"])) == (["self"], ["self"])
        await node.up(MASTER)
        shown = json.loads((await node.reply(await node.ask(PROGRAM, "status"))).payload)
        assert (shown["problem"], [peer["kind"] for peer in shown["peers"]]) == ("", ["master"])

    on(node, story())


# ---- a master --------------------------------------------------------------------------------------------------------


def test_status_of_a_master_is_by_worker_and_remembers_absent_ones(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")
    assert isinstance(node.side, MasterSide)

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(WORKER)
        node.side._integrity.record("w1").is_behind(node.clock.monotonic(), 3)
        node.clock.move(5.0)
        node.clock.jump(-3600.0)
        await node.core.handle(LinkDown(1, "it ended"))
        shown = json.loads((await node.reply(await node.ask(PROGRAM, "status"))).payload)
        assert (shown["problem"], shown["peers"]) == ("", [])
        assert (shown["results"]["w1"]["lag_s"], shown["results"]["w1"]["lag_files"]) == (5.0, 3)
        assert list(shown["agents"]["syncs"]) == ["w1"]

    on(node, story())


def test_what_a_worker_lacks_is_told_without_the_store(tmp_path: Path) -> None:
    """In a switchover it takes no writes, and a status waits for it: 0.8 s in which nothing is registered."""
    node = Node(tmp_path, "master", serves_store=True)

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(WORKER)
        node.side._integrity.record("w1").is_behind(node.clock.monotonic(), 3)
        found = json.loads((await node.reply(await node.ask(PROGRAM, "lacking", b"w1"))).payload)
        assert (found["result"]["lag_files"], found["answered_at"]) == (3, node.clock.wall())
        shown = json.loads((await node.reply(await node.ask(PROGRAM, "status"))).payload)
        assert found["result"] == shown["results"]["w1"]
        other = json.loads((await node.reply(await node.ask(PROGRAM, "lacking", b"w2"))).payload)
        assert other["result"] is None

    on(node, story())


def test_master_asks_nothing_of_a_worker_that_comes_and_has_a_line_of_groups_for_it(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        await node.up(PROGRAM)
        await turns()
        assert node.asked(1) == []
        assert list(node.side._groups._queues) == [1]
        await node.core.handle(LinkDown(1, "it ended"))
        assert list(node.side._groups._queues) == []

    on(node, story())


def test_worker_that_left_in_its_check_may_check_again(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        node.side._integrity.permissions.begin("w1", "check", node.clock.monotonic())
        assert not node.side._integrity.is_free("w1")
        await node.core.handle(LinkDown(1, "it ended"))
        assert node.side._integrity.is_free("w1")

    on(node, story())


def test_package_that_came_in_the_moment_in_which_its_link_ended_is_removed(tmp_path: Path) -> None:
    """Else it stays in the spool, and on the account of its worker, until the node is restarted."""
    node = Node(tmp_path, "master", pool=True)

    async def story() -> None:
        await node.context.manifests.scan()
        peer = await node.up(WORKER)
        task_id = (await node.reply(await node.ask(WORKER, "syn_i_w_m"))).payload.decode()
        await turns()
        awaited = peer.incoming.awaited(task_id)
        assert awaited is not None
        package = node.context.spool.create("package")
        awaited.file.set_result(IncomingFile("/queue/cluster/w1/a.zip", package, 9, complete=True, digest=b"d" * 32))
        await node.core.handle(LinkDown(1, "it ended"))
        assert not Path(package).exists()

    on(node, story())


def test_link_ends_in_order_whatever_one_part_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First its open requests fail, then its tasks end, then it is removed."""
    node = Node(tmp_path, "master")
    steps: list[str] = []

    def trip(self: IntegrityMaster, peer: Peer) -> None:
        steps.append(f"integrity, closed {peer.gone.is_set()}")
        raise OSError("disk")

    monkeypatch.setattr(IntegrityMaster, "forget", trip)
    monkeypatch.setattr(AgentGroupsMaster, "left", lambda self, peer: steps.append("groups"))
    monkeypatch.setattr(ApiRequests, "link_lost", lambda self, peer: steps.append(f"api, closed {peer.gone.is_set()}"))

    async def story() -> None:
        await node.up(WORKER)
        with pytest.raises(OSError, match="disk"):
            await node.core.handle(LinkDown(1, "it ended"))
        assert steps == ["api, closed False", "integrity, closed True", "groups"]
        await node.core.handle(LinkDown(1, "it ended"))  # it is gone already

    on(node, story())


async def begun(node: Node, asked: PeerRequest) -> None:
    """Sends a request whose job then waits."""
    node.pool.go_on.clear()
    before = len(node.pool.jobs)
    await node.core.handle(asked)
    await node.until(lambda: len(node.pool.jobs) > before)


def test_request_whose_link_has_ended_while_it_was_opened_is_not_carried_out(tmp_path: Path) -> None:
    """What it would leave behind nobody would remove: the link was forgotten before."""
    node = Node(tmp_path, "master", caps=("status",), pool=True)
    told = b'{"count": 1, "files": {"etc/a": "no permission"}}'
    node.pool.answers[OpenBody] = lambda job: Opened(told, len(told))

    async def story() -> None:
        for ends in (False, True):
            (await node.up(WORKER)).agree({"status"})
            await begun(node, PeerRequest(1, 5 + ends, "node_state", b"", [Descriptor(0, 0, 9)]))
            if ends:
                await node.core.handle(LinkDown(1, "it ended"))
            node.pool.go_on.set()
            await node.reply(5 + ends)
            assert node.side._exchange.left_out().keys() == (set() if ends else {"w1"})
            await node.core.handle(LinkDown(1, "it ended"))

    on(node, story())


def test_comparison_whose_worker_has_gone_meanwhile_leaves_nothing_behind(tmp_path: Path) -> None:
    node = Node(tmp_path, "master", pool=True)
    differs = Compared(1, 1, 0, 0, [7], b"c" * 16, b"w" * 16)
    outcomes = [differs, JobError("disk", "it is full")]

    def compared(job: CompareBuckets) -> Compared:
        Path(job.out).write_bytes(b"x")
        outcome = outcomes.pop()
        if isinstance(outcome, JobError):
            raise outcome
        return outcome

    node.pool.answers[CompareBuckets] = compared

    async def story() -> None:
        await node.context.manifests.scan()
        while outcomes:
            left = len(outcomes)
            (await node.up(WORKER)).agree({"digest"})
            await begun(node, PeerRequest(1, left, "syn_buckets", b"rows"))
            await node.core.handle(LinkDown(1, "it ended"))
            node.pool.go_on.set()
            assert (await node.reply(left)).command == "err"
            await turns()
            assert (len(outcomes), node.context.troubles.shown()) == (left - 1, {})
            assert [path for path in Path(node.context.spool.directory).iterdir() if "difference" in path.name] == []
            assert node.side._integrity.record("w1").result == ""

    on(node, story())


def test_master_answers_workers_and_programs_about_nodes_alike(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        await node.up(PROGRAM)
        answers = [(await node.reply(await node.ask(who, "get_nodes", b"{}"))) for who in (WORKER, PROGRAM)]
        assert [answer.command for answer in answers] == ["ok", "ok"]
        assert answers[0].payload == answers[1].payload
        assert [row["name"] for row in json.loads(answers[0].payload)["items"]] == ["m", "w1"]

    on(node, story())


# ---- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "commands", "foreign"),
    [
        ("master", ("syn_i_w_m_p", "syn_digest", "sendsync", "dapi"), ("syn_m_c", "syn_changed", "sendsyn_res")),
        ("worker", ("syn_m_c", "syn_changed", "sendsyn_res", "dapi"), ("syn_i_w_m_p", "syn_digest", "sendsync")),
    ],
)
def test_node_knows_the_commands_of_its_role_only(
    tmp_path: Path, role: str, commands: tuple[str, ...], foreign: tuple[str, ...]
) -> None:
    node = Node(tmp_path, role)
    assert set(commands) <= set(node.side.remote)
    assert not set(foreign) & set(node.side.remote)
    assert ("syn_buckets" in node.side.sealed) is (role == "master")
    assert not set(node.side.sealed) & set(node.side.remote)
    forever = node.side.forever()
    assert len(forever) == (3 if role == "master" else 0)
    for work in forever:
        work.close()


@pytest.mark.parametrize("role", ["master", "worker"])
def test_every_command_of_the_table_is_answered_by_the_handler_that_it_names(tmp_path: Path, role: str) -> None:
    core = Node(tmp_path, role).core
    for bound in (*core._remote.values(), *core._local.values()):
        handler = bound.opened or bound.sealed
        assert handler is not None
        assert (bound.row.word, handler.__qualname__) == (bound.row.word, bound.row.handler)


def test_process_does_not_start_with_handlers_that_differ_from_the_table(tmp_path: Path) -> None:
    side = Node(tmp_path, "worker").side
    remote, sealed = side.remote, side.sealed
    handler, chunks = remote["syn_m_c"], sealed["file_upd"]
    for opened, chunk_handlers, differing in (
        ({word: answers for word, answers in remote.items() if word != "syn_m_c"}, sealed, "syn_m_c"),
        (remote | {"syn_i_w_m": handler}, sealed, "syn_i_w_m"),
        (remote | {"file_upd": handler}, {"str_upd": chunks}, "file_upd"),
        (remote, sealed | {"syn_buckets": chunks}, "syn_buckets"),
    ):
        with pytest.raises(ValueError, match=f"differ in {differing}$"):
            bind("master", opened, chunk_handlers, on_master=False)


@pytest.mark.parametrize(
    ("other", "words"),
    [(WORKER, ["syn_buckets", "syn_digest"]), (MASTER, ["get_diff", "get_room", "syn_changed"])],
    ids=["master", "worker"],
)
def test_node_that_has_not_agreed_gets_what_a_stock_node_says(
    tmp_path: Path, other: LinkInfo, words: list[str]
) -> None:
    node = Node(tmp_path, "master" if other is WORKER else "worker", caps=("digest", "push", "room"))

    async def story() -> None:
        peer = await node.up(other)
        for word in words:
            for agreed in (set(), {"lz4"}):
                peer.agree(agreed)
                refused = await node.reply(await node.ask(other, word, b"x"))
                assert refused.payload == f"unknown command 'b'{word}''".encode()
        peer.agree({"digest", "push", "room"})
        refused = await node.reply(await node.ask(other, words[-1], b"x"))
        assert code_in(refused.payload) == 1000

    on(node, story())


@pytest.mark.parametrize(("role", "commands"), [("master", ["dapi_fwd"]), ("worker", ["sendsync", "sendasync"])])
def test_other_users_may_not_use_what_changes_something(tmp_path: Path, role: str, commands: list[str]) -> None:
    node = Node(tmp_path, role)

    async def story() -> None:
        await node.up(STRANGER)
        for command in ("sync_now", "send_file", *commands):
            refused = await node.reply(await node.ask(STRANGER, command, b"x {}"))
            assert (command, refused.command, code_in(refused.payload)) == (command, "err", 4000)
            may = f"only root and the user of this daemon may use {NAMES.get(command, command)}"
            assert may.encode() in refused.payload
            assert (b"Permission Denied: only" in refused.payload) is ("sync" in command and command != "sync_now")

    on(node, story())


def test_program_may_not_send_what_is_for_other_nodes(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(PROGRAM)
        for command in ("syn_buckets", "file_upd", "str_upd", "syn_i_w_m_p"):
            refused = await node.reply(await node.ask(PROGRAM, command))
            assert refused.command == "err"
            assert b"unknown command" in refused.payload

    on(node, story())


def test_worker_that_is_not_there_is_3022(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(PROGRAM)
        for command, payload in (("diff", b"w1"), ("dapi_fwd", b"w1 {}"), ("send_file", b"/x w1")):
            refused = await node.reply(await node.ask(PROGRAM, command, payload))
            assert (command, code_in(refused.payload)) == (command, 3022)
        with pytest.raises(ClusterError):
            node.context.roster.need_worker("w1")

    on(node, story())


@pytest.mark.parametrize(("role", "asker", "node"), [("worker", PROGRAM, MASTER), ("master", PROGRAM, WORKER)])
def test_a_configuration_that_is_given_on_has_the_key_that_was_only_shown_masked(
    tmp_path: Path, role: str, asker: LinkInfo, node: LinkInfo
) -> None:
    """The other node may be a stock one, which would write the masked key into its file."""
    key = "c98b62a9b6169ac5f67dae55ae4a9088"
    side = Node(tmp_path, role)
    cluster = msgspec.structs.replace(side.context.settings.cluster, key=Secret(key.encode()))
    side.context.settings = msgspec.structs.replace(side.context.settings, cluster=cluster)
    name = "update_ossec_conf"
    function = {"__name__": name, "__module__": "wazuh.manager", "__qualname__": name, "__type__": "function"}
    asked = json.dumps({"f": {"__callable__": function}, "f_kwargs": {"new_conf": "<key>*****</key>"}}).encode()

    async def story() -> None:
        for info in (node, asker):
            await side.up(info)
        command, payload = ("dapi", asked) if role == "worker" else ("dapi_fwd", b"w1 " + asked)
        await side.ask(asker, command, payload)
        given = (await side.request(node.link, "dapi")).payload
        assert json.loads(given.split(b" ", 1)[1])["f_kwargs"]["new_conf"] == f"<key>{key}</key>"

    on(side, story())


def test_node_that_only_says_hello_is_no_worker_that_came_and_is_lost(tmp_path: Path) -> None:
    """`doctor` and `check-config --connect` do that, under the name of a worker that may be lost at that moment."""
    node = Node(tmp_path, "master")

    def states() -> dict[str, str]:
        return {row["name"]: row["state"] for row in node.side._known.shown({})}

    async def story() -> None:
        worker = msgspec.structs.replace(WORKER, up_since=node.clock.monotonic())
        node.clock.jump(3600.0)  # a clock that is set makes no try a worker
        await node.up(worker)
        await turns()
        await node.core.handle(LinkDown(WORKER.link, "it ended"))
        assert (states(), told(node)) == ({}, [])
        peer = await node.up(worker)
        await node.ask(worker, "echo", b"x")
        await node.until(peer.spoke.is_set)
        await turns()
        assert (states(), told(node)) == ({"w1": "connected"}, ["connected"])
        await node.core.handle(LinkDown(WORKER.link, "it ended"))
        node.clock.move(60)
        node.side._known._say_lost()
        assert await members(node) == ["w1"]
        await node.up(msgspec.structs.replace(WORKER, up_since=node.clock.monotonic()))
        await turns()
        assert (states(), told(node)) == ({"w1": "lost"}, ["connected", "lost"])
        assert await members(node) == []  # else the list of nodes would have it twice
        refused = await node.reply(await node.ask(PROGRAM, "forget", b"w1"))
        assert b"worker w1 is connected: stop it first" in refused.payload

    on(node, story())


def test_worker_that_has_been_connected_for_a_while_is_known_before_it_asks(tmp_path: Path) -> None:
    """So does a new sync process know the workers whose links net has kept."""
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(msgspec.structs.replace(WORKER, up_since=node.clock.monotonic() - QUIET_S))
        await turns()
        assert told(node) == ["connected"]

    on(node, story())


def told(node: Node) -> list[str]:
    return [event.what for event in cast(Any, node.context.events).told]


async def members(node: Node) -> list[str]:
    """Who is away, as `control nodes` is told."""
    if node.context.roster.at(PROGRAM.link) is None:
        await node.up(PROGRAM)
    reply = await node.reply(await node.ask(PROGRAM, "get_members"))
    return [row["name"] for row in json.loads(reply.payload)["workers"]]
