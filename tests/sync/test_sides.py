"""What both roles' sides of sync have in common: their commands, and who may use them."""

import json
from pathlib import Path

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.links import LinkInfo
from clusterd.settings import Secret
from clusterd.sync.links.bound import bind
from tests.sync.scripted_node import MASTER, PROGRAM, STRANGER, WORKER, Node, code_in, on

NAMES = {"sync_now": "sync", "sendasync": "sendsync"}


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
    assert len(forever) == (3 if role == "master" else 1)
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
