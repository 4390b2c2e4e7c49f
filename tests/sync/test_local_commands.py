"""What programs of this machine ask besides the API: send_file, sendrreload, and the answers of a worker without a
master (docs/protocol/dapi.md 1.9, 1.10)."""

import json
import socket
from pathlib import Path
from typing import cast

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.links import LinkDown, Reply, Unanswered, WriteLog
from clusterd.wire.results import encode_failure
from tests.fakes.daemon import FakeDaemon
from tests.sync.scripted_node import MASTER, PROGRAM, WORKER, Node, code_in, on, turns

ANALYSIS = "queue/sockets/analysis"


def made(root: Path, name: str = "file", data: bytes = b"content") -> Path:
    path = root / "queue/cluster" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


async def result(node: Node) -> bytes:
    """Returns what the program gets in the end: the string, and that it is the result of send_file."""
    opened = await node.request(PROGRAM.link, "new_str")
    await node.says(opened, b"7")
    told = await node.request(PROGRAM.link, "str_upd")
    await node.says(told)
    named = await node.request(PROGRAM.link, "send_f_res")
    assert named.payload == b"7"
    assert opened.payload == str(len(told.payload) - len(b"7 ")).encode()
    return told.payload.removeprefix(b"7 ")


# ---- send_file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "other", "node_name"), [("master", WORKER, "w1"), ("worker", MASTER, "None")])
def test_file_that_the_other_node_refuses_is_reported_with_its_reason(
    role: str, other: object, node_name: str, tmp_path: Path
) -> None:
    """A worker sends the file to its master, whatever name is given. A clusterd master accepts only files of syncs."""
    node, path = Node(tmp_path, role, pool=True), made(tmp_path)

    async def story() -> None:
        await node.up(PROGRAM)
        peer = await node.up(WORKER if role == "master" else MASTER)
        first = await node.reply(await node.ask(PROGRAM, "send_file", f"{path} {node_name}".encode()))
        assert (first.command, first.payload) == ("ok", b"Forwarding file to master node")
        asked = await node.request(peer.link, "new_file")
        assert asked.payload == b"/queue/cluster/file"
        await node.says(asked, encode_failure(ClusterError(1000, "not this one")), "err")
        assert code_in(await result(node)) == 1000

    on(node, story())
    assert any(line[0] == "ERROR" and "queue/cluster/file was not sent to" in line[3] for line in node.log.written)


def test_master_takes_files_of_syncs_only(tmp_path: Path) -> None:
    """docs/protocol/dapi.md 8, number 6."""
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        for path in ("/queue/cluster/w1/x.txt", "/etc/client.keys", "x"):
            refused = await node.reply(await node.ask(WORKER, "new_file", path.encode()))
            assert (refused.command, code_in(refused.payload)) == ("err", 1000), path

    on(node, story())


def test_end_of_a_link_during_a_file_is_reported(tmp_path: Path) -> None:
    node, path = Node(tmp_path, "master", pool=True), made(tmp_path)

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(WORKER)
        await node.ask(PROGRAM, "send_file", f"{path} w1".encode())
        asked = await node.request(WORKER.link, "new_file")
        await node.core.handle(Unanswered(asked.id, "closed"))
        await node.core.handle(LinkDown(WORKER.link, "it ended"))
        assert code_in(await result(node)) == 3018

    on(node, story())


def test_files_that_are_not_to_be_sent_are_refused(tmp_path: Path) -> None:
    """Paths that lead out of queue/cluster, or to this daemon's own files there."""
    node = Node(tmp_path, "master")
    made(tmp_path)
    made(tmp_path, ".clusterd/state/x")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/client.keys").write_text("secret")
    (tmp_path / "queue/cluster/link").symlink_to(tmp_path / "etc/client.keys")
    (tmp_path / "queue/cluster-other").mkdir()
    (tmp_path / "queue/cluster-other/file").write_bytes(b"x")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "queue/cluster/c-internal.sock"))
    listener.close()
    wrong = [
        (f"{tmp_path}/etc/client.keys w1", 4000),
        (f"{tmp_path}/queue/cluster/../../etc/client.keys w1", 4000),
        (f"{tmp_path}/queue/cluster/link w1", 4000),
        (f"{tmp_path}/queue/cluster/.clusterd/state/x w1", 4000),
        (f"{tmp_path}/queue/cluster-other/file w1", 4000),
        (f"{tmp_path}/queue/cluster w1", 4000),
        (f"{tmp_path}/queue/cluster/nothing w1", 3034),
        (f"{tmp_path}/queue/cluster/c-internal.sock w1", 3034),
        (f"{tmp_path}/queue/cluster/file nobody", 3022),
        ("one", 1000),
        ("a b c", 1000),
    ]

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(WORKER)
        for payload, code in wrong:
            answer = await node.reply(await node.ask(PROGRAM, "send_file", payload.encode()))
            assert (answer.command, code_in(answer.payload)) == ("err", code), payload
        assert node.asked(WORKER.link) == []

    on(node, story())


# ---- sendrreload -----------------------------------------------------------------------------------------------------


RELOADS = [
    (
        b'{"error":0,"message":"ok","data":[]}',
        ("INFO", "reload triggered by cluster integrity check: reload message sent successfully."),
    ),
    (
        b'{"error":0,"message":"ok","data":["one","two"]}',
        ("WARNING", "reloaded with warnings after cluster integrity check: one, two"),
    ),
    (
        b'{"error":1,"message":"due","data":["bad rule"]}',
        ("ERROR", "reload failed after cluster integrity check: bad rule"),
    ),
    (b"nonsense", ("ERROR", "reload failed after cluster integrity check: JSON is malformed")),
]


def test_reload_is_sent_once_after_the_next_round(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")
    answers = [answer for answer, _ in RELOADS]

    async def line(number: int) -> WriteLog:
        await node.until(lambda: sum(isinstance(sent, WriteLog) for sent in node.sent) > number)
        return [sent for sent in node.sent if isinstance(sent, WriteLog)][number]

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(MASTER)
        node.side._integrity.checked_equal()
        await turns()
        assert analysis.requests == [], "nobody has asked for it"
        for number, (_, (level, text)) in enumerate(RELOADS):
            answer = await node.reply(await node.ask(PROGRAM, "sendrreload"))
            assert answer.payload == b'{"success": true}'
            assert len(analysis.requests) == number, "not before the round has ended"
            for _ in range(2):
                node.side._integrity.checked_equal()
            said = await line(number)
            assert (said.level, said.tag) == (level, "Worker w1")
            assert said.text.startswith(f"Ruleset {text}")
            assert len(analysis.requests) == number + 1

    with FakeDaemon(tmp_path / ANALYSIS, lambda request: answers[len(analysis.requests) - 1]) as analysis:
        on(node, story())
    assert {json.dumps(json.loads(one)) for one in analysis.requests} == {
        '{"version": 1, "origin": {"module": "cluster"}, "command": "reload-ruleset"}'
    }


def test_answer_to_a_sendsync_waits_for_the_program_without_keeping_its_messages_unread(tmp_path: Path) -> None:
    """Its response is read with its next requests, which net does not read while too many are unanswered."""
    node = Node(tmp_path, "worker")

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(MASTER)
        serial = await node.ask(PROGRAM, "sendsync", b'{"daemon_name":"authd","message":{"function":"add"}}')
        await node.says(await node.request(MASTER.link, "sendsync"))
        await node.reply(await node.ask(MASTER, "sendsyn_err", b"9 no"))
        given = await node.request(PROGRAM.link, "err")
        replies = [sent for sent in node.sent if isinstance(sent, Reply) and sent.serial == serial]
        assert [(reply.command, reply.more) for reply in replies] == [("", True)]
        assert node.sent.index(replies[0]) < node.sent.index(given)
        await node.says(given)
        ended = await node.find(lambda sent: isinstance(sent, Reply) and sent.serial == serial and not sent.more)
        assert cast(Reply, ended).command == ""

    on(node, story())


def test_reload_without_an_analysisd_is_only_a_log_line(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(MASTER)
        await node.reply(await node.ask(PROGRAM, "sendrreload"))
        node.side._integrity.checked_equal()
        said = cast(WriteLog, await node.find(lambda sent: isinstance(sent, WriteLog)))
        assert (said.level, said.text.partition(": ")[0]) == (
            "ERROR",
            "Ruleset reload failed after cluster integrity check",
        )

    on(node, story())


# ---- no master -------------------------------------------------------------------------------------------------------


def test_worker_without_a_master_refuses_what_needs_one(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")
    sendsync = b'{"daemon_name":"authd","message":{"function":"add"}}'

    async def story() -> None:
        await node.up(PROGRAM)
        for command, payload in (
            ("get_nodes", b"{}"),
            ("get_health", b"null"),
            ("dapi", b"{}"),
            ("send_file", f"{tmp_path}/queue/cluster/x None".encode()),
            ("sendrreload", b""),
            ("sendsync", sendsync),
            ("sendasync", sendsync),
        ):
            answer = await node.reply(await node.ask(PROGRAM, command, payload))
            assert (answer.command, code_in(answer.payload)) == ("err", 3023), command

    on(node, story())
