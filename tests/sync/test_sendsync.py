"""Decisions of sendsync: who may ask, and what becomes of requests without an answer in time."""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.clock import Clock
from clusterd.errors import ClusterError
from clusterd.messages.links import LinkInfo
from clusterd.settings import Limits
from clusterd.sync.links.handlers import DeferredAnswer
from clusterd.sync.links.incoming import Incoming
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.roster import Roster
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.spool import Spool
from clusterd.sync.requests.sendsync_master import SendsyncMaster, read_request
from clusterd.sync.requests.sendsync_rights import UNDO_S, WorkerRights, described, outcome, through, without_own
from clusterd.sync.requests.sendsync_worker import SendsyncWorker
from tests.fakes.daemon import FakeDaemon

Answer = Callable[[str, bytes], Awaitable[bytes]]
GOOD = b'{"daemon_name":"authd","message":{"function":"add"}}'


async def accept(command: str, payload: bytes) -> bytes:
    return b""


class ScriptedPeer:
    """The other end of a link: it keeps requests, and answers as the test says."""

    def __init__(self, link: int, kind: str, name: str, incoming: Incoming, uid: int = -1) -> None:
        self.info = LinkInfo(link, kind, name, uid=uid)
        self.link, self.name, self.incoming, self.program = link, name, incoming, "clusterd"
        self.asked: list[tuple[str, bytes]] = []
        self.answer: Answer = accept

    async def request(self, command: str, payload: bytes = b"") -> bytes:
        self.asked.append((command, payload))
        return await self.answer(command, payload)


class Bench:
    """A worker's sendsync between a scripted master and scripted clients."""

    def __init__(self, tmp_path: Path, timeout_s: float = 5.0) -> None:
        spool = Spool(str(tmp_path), 1)
        spool.prepare()
        self.incoming = Incoming("w1", spool, cast(Any, None), file_limit=1, limits=Limits(), now=lambda: 0.0)
        self.roster = Roster()
        self.master = ScriptedPeer(1, "master", "m", self.incoming)
        self.roster.add(cast(Peer, self.master))
        self.lines: list[str] = []
        context = SimpleNamespace(
            settings=SimpleNamespace(communication=SimpleNamespace(timeout_dapi_request_s=timeout_s)),
            spool=spool,
            roster=self.roster,
            node_name="w1",
            tag="Worker w1",
            tag_log=lambda tag, subtag: SimpleNamespace(error=self.lines.append),
        )
        self.sendsync = SendsyncWorker(cast(Any, context))

    def client(self, name: str, uid: int | None = None) -> ScriptedPeer:
        return ScriptedPeer(int(name), "local", name, self.incoming, os.geteuid() if uid is None else uid)

    async def ask(self, client: ScriptedPeer, payload: bytes = GOOD) -> "asyncio.Task[None]":
        """Begins a request and runs it as far as it can go without an answer."""
        later = await self.sendsync.local["sendsync"](cast(Peer, client), payload)
        assert isinstance(later, DeferredAnswer)

        async def whole() -> None:
            answer = await later.work()
            if answer is not None:
                with contextlib.suppress(ClusterError):
                    await client.request(*answer)

        task = asyncio.ensure_future(whole())
        await turns_of_the_loop()
        return task

    async def say(self, command: str, payload: bytes) -> bytes:
        answer = await self.sendsync.remote[command](cast(Peer, self.master), payload)
        await turns_of_the_loop()
        assert isinstance(answer, bytes)
        return answer

    def string(self) -> str:
        return self.incoming.strings.begin(b"3")


async def turns_of_the_loop() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def code_in(asked: tuple[str, bytes]) -> int:
    assert asked[0] == "err"
    code: int = json.loads(asked[1])["__wazuh_exception__"]["__object__"]["code"]
    return code


def test_a_master_that_never_answers_is_3021_and_its_late_answer_is_dropped(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, timeout_s=0.05)
        first = bench.client("5")
        await (await bench.ask(first))
        assert code_in(first.asked[0]) == 3021
        # Another client with the same number must not get the answer that was meant for the first.
        second = bench.client("5")
        await (await bench.ask(second))
        assert code_in(second.asked[0]) == 1000
        assert await bench.say("sendsyn_res", f"5 {bench.string()}".encode()) == b"Response forwarded to worker"
        assert len(second.asked) == 1
        task = await bench.ask(second)
        assert await bench.say("sendsyn_err", b"5 no") == b"SendSync error forwarded to worker"
        await task
        assert second.asked[1] == ("err", b"no")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("failure", "code"),
    [(ClusterError(1014, "no"), 1014), (ClusterError(3020, "sendsync"), 3020), (LinkClosed("sendsync"), 3023)],
)
def test_a_request_that_the_master_refuses_fails_at_once(tmp_path: Path, failure: ClusterError, code: int) -> None:
    async def refuse(command: str, payload: bytes) -> bytes:
        raise failure

    async def story() -> None:
        bench = Bench(tmp_path)
        bench.master.answer = refuse
        client = bench.client("5")
        await (await bench.ask(client))
        assert code_in(client.asked[0]) == code

    asyncio.run(story())


def test_a_client_that_hung_up_is_asked_nothing_and_asks_nothing_more(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path)
        gone, here = bench.client("5"), bench.client("6")
        with_master, in_line = await bench.ask(gone), await bench.ask(gone)
        task = await bench.ask(here)
        bench.sendsync.link_lost(cast(Peer, gone))
        await asyncio.wait([with_master, in_line])
        assert with_master.cancelled()
        assert in_line.cancelled()
        assert len(bench.master.asked) == 2
        with pytest.raises(ClusterError, match="1000"):
            await bench.say("sendsyn_err", b"5 text")
        await bench.say("sendsyn_res", f"6 {bench.string()}".encode())
        await task
        assert (gone.asked, here.asked) == ([], [("ok", b"\0\0\0")])

    asyncio.run(story())


def test_an_answer_whose_string_never_came_is_an_error_for_the_client(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path)
        for wrong, code in ((b"5 77", 3035), (b"5 Error 3020 - Timeout sending request: new_str", 3016)):
            client = bench.client("5")
            task = await bench.ask(client)
            with pytest.raises(ClusterError, match=str(code)):
                await bench.say("sendsyn_res", wrong)
            await task
            assert code_in(client.asked[0]) == code
        assert len(bench.lines) == 2

    asyncio.run(story())


def test_the_master_writes_objects_as_stock_does_and_texts_as_they_are() -> None:
    assert read_request(
        b'{"daemon_name":"authd","message":{"arguments":{"name":"web-01","ip":"any"},"function":"add"}}'
    ) == (
        "authd",
        b'{"arguments": {"name": "web-01", "ip": "any"}, "function": "add"}',
    )
    assert read_request('{"daemon_name":"wazuh-db","message":"global sql ä"}'.encode())[1] == "global sql ä".encode()


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"daemon_name":"execd","message":"SECRET"}',
        b'{"daemon_name":"authd","message":"SECRET","more":1}',
        b'{"daemon_name":"authd","message":["SECRET"]}',
        b'{"daemon_name":"authd","message":{"SECRET":1e999}}',
        b'{"daemon_name":"authd","message":{"SECRET":' + b"[" * 3000,
        b'{"daemon_name":"authd","message":"' + b"SECRET" * 200_000 + b'"}',
    ],
)
def test_other_requests_are_refused_without_quoting_the_message(wrong: bytes) -> None:
    with pytest.raises(ClusterError) as refusal:
        read_request(wrong)
    assert refusal.value.code == 1014
    assert "SECRET" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("daemon", "message", "shown", "reads"),
    [
        ("authd", b'{"function":"add","arguments":{"name":"n","key":"secret"}}', "authd add", False),
        ("authd", b'{"function":"remove","arguments":{"id":"007"}}', "authd remove (id '007')", False),
        ("authd", b'{"function":"get","arguments":{"id":"007"}}', "authd get (id '007')", False),
        ("wazuh-db", b"global get-agent-info 7", "wazuh-db global get-agent-info", True),
        ("wazuh-db", b"global sql select secret", "wazuh-db global sql", False),
        ("wazuh-db", b"agent 007 sql delete from secret", "wazuh-db agent 007 sql", False),
        ("task-manager", b'{"command":"upgrade_get_status"}', "task-manager upgrade_get_status", True),
        ("task-manager", b'{"command":"upgrade_update_status"}', "task-manager upgrade_update_status", False),
        ("remoted", b'\xff{"', "remoted", False),
        ("authd", b"[" * 100_000, "authd", False),
        ("authd", b'{"function":"a\\nb"}', "authd", False),
    ],
)
def test_the_audit_says_what_is_asked_and_no_secret(daemon: str, message: bytes, shown: str, reads: bool) -> None:
    assert described(daemon, message) == (shown, reads)


def test_the_audit_says_what_became_of_it_and_no_secret() -> None:
    assert outcome(b'{"error":0,"data":{"id":"007","name":"n","key":"secret"}}') == "done, agent '007'"
    assert outcome(b'{"error":9008,"message":"secret"}') == "refused with 9008"
    assert outcome(b"err secret") == "refused"
    assert outcome(b'ok [{"name":"secret"}]') == outcome(b"\xff") == "done"


def added(number: str) -> bytes:
    """The answer of authd."""
    return json.dumps({"error": 0, "data": {"id": number, "name": "n", "ip": "any", "key": "k"}}).encode()


ADD = b'{"function":"add","arguments":{"name":"n","ip":"any","FORCE":{}},"FUNCTION":"x"}'
ADD_GIVEN = b'{"function": "add", "arguments": {"name": "n", "ip": "any"}}'
REMOVE = b'{"function":"remove","arguments":{"id":"007","purge":1}}'
GROUP = b'{"command":"assigngroup","parameters":{"agent":"007","md5":"' + b"0" * 32 + b'"}}'


def test_with_full_everything_goes_to_the_daemon_as_it_came() -> None:
    rights = WorkerRights(lambda: 0.0)
    for daemon, message in (("authd", ADD), ("authd", REMOVE), ("wazuh-db", b"global sql x"), ("remoted", b"\xff")):
        assert rights.permitted("w1", daemon, message, "full") is message


@pytest.mark.parametrize("allowed", ["read", "off"])
def test_below_full_workers_register_new_agents_and_nothing_else(allowed: str) -> None:
    rights = WorkerRights(lambda: 0.0)
    assert rights.permitted("w1", "authd", ADD, allowed) == ADD_GIVEN
    assert rights.permitted("w1", "remoted", GROUP, allowed) == json.dumps(json.loads(GROUP)).encode()
    for daemon, message in (
        ("authd", REMOVE),
        ("authd", b"x"),
        ("authd", b'{"function":"get","arguments":{"id":"007"}}'),
        ("authd", b'{"function":"add","arguments":{"name":"n","ip":"any","id":"007","key":"k","force":{}}}'),
        ("authd", b'{"function":"add","arguments":{"name":"n","ip":"any","force":{}}}'),
        ("authd", b'{"function":"add","arguments":[]}'),
        ("wazuh-db", ADD),
        ("wazuh-db", b"global sql x"),
        ("task-manager", b'{"command":"upgrade"}'),
        ("remoted", b'{"command":"assigngroup","parameters":{"agent":"7 or 1","md5":"x"}}'),
        ("remoted", b'{"command":"getstate"}'),
        ("remoted", ADD),
    ):
        assert rights.permitted("w1", daemon, message, allowed) is None, message


def test_worker_takes_back_once_and_soon_what_it_has_registered_and_no_other_agent() -> None:
    """Its daemon asks for that when the key did not reach the agent; otherwise the agent's next try would be a
    duplicate."""
    now = [0.0]
    rights = WorkerRights(lambda: now[0])
    for worker, number in (("w1", "007"), ("w2", "008"), ("w1", "009")):
        rights.answered(worker, "authd", ADD_GIVEN, added(number), "read")
    rights.answered("w1", "authd", ADD_GIVEN, b'{"error":9008,"message":"Duplicate name","data":{"id":"001"}}', "read")
    rights.answered("w1", "authd", b'{"function":"get","arguments":{"id":"002"}}', added("002"), "read")

    def taken_back(worker: str, number: str) -> bytes | None:
        return rights.permitted(worker, "authd", REMOVE.replace(b"007", number.encode()), "read")

    assert [taken_back("w1", number) for number in ("001", "002", "008")] == [None, None, None]
    assert taken_back("w1", "007") == b'{"function": "remove", "arguments": {"id": "007", "purge": 1}}'
    assert taken_back("w1", "007") is None
    now[0] = UNDO_S
    assert taken_back("w1", "009") is None


def test_a_registration_below_full_and_what_undoes_it_reach_the_daemon(tmp_path: Path) -> None:
    lines: list[str] = []
    socket = tmp_path / "queue/sockets/auth"
    socket.parent.mkdir(parents=True)

    async def quietly(*_: object, **__: object) -> None:
        return

    async def send_string(peer: object, content: bytes) -> str:
        return "7"

    async def story() -> None:
        times = SimpleNamespace(timeout_dapi_request_s=200.0)
        clusterd = SimpleNamespace(worker_api="off")
        context = SimpleNamespace(
            clock=Clock(),
            settings=SimpleNamespace(root=str(tmp_path), clusterd=clusterd, communication=times, serves_store=True),
            tag_log=lambda tag, subtag: SimpleNamespace(debug=lambda text: None, error=lines.append),
            log=SimpleNamespace(line=lambda *parts: lines.append(parts[-1])),
            net=SimpleNamespace(note_task=quietly),
            sender=SimpleNamespace(send_string=send_string),
        )
        master = SendsyncMaster(cast(Any, context))
        at_work: list[asyncio.Task[None]] = []
        peer = SimpleNamespace(
            link=1,
            name="w1",
            request=quietly,
            answer_late=lambda command, payload: None,
            spawn=lambda work: at_work.append(asyncio.create_task(work)),
        )
        for message in (ADD, REMOVE, REMOVE):
            await master.sendsync(cast(Any, peer), b'318 {"daemon_name":"authd","message":' + message + b"}")
            await asyncio.gather(*at_work)

    with FakeDaemon(socket, lambda request: added("007")) as authd:
        asyncio.run(story())
    assert [json.loads(request)["function"] for request in authd.requests] == ["add", "remove"]
    assert [line.partition(": ")[2] for line in lines] == [
        "done, agent '007'.",
        "done, agent '007'.",
        "refused with 4000.",
    ]


WHO = b'{"function":"add","arguments":{"name":"web-01"},"clusterd_who":"agent-auth"}'


@pytest.mark.parametrize("worker_api", ["full", "off"])
def test_own_store_hears_who_asked_and_a_stock_authd_gets_no_unknown_member(worker_api: str) -> None:
    given = WorkerRights(lambda: 0.0).permitted("w1", "authd", WHO, worker_api)
    assert given is not None
    plain = {"function": "add", "arguments": {"name": "web-01"}}
    own = {"clusterd_through": "w1", "clusterd_who": "agent-auth"}
    assert json.loads(through(given, "w1", WHO)) == plain | own
    assert json.loads(without_own(given)) == plain
    assert without_own(b'{"function": "clusterd_who"}') == b'{"function": "clusterd_who"}'
    assert without_own(b"clusterd_who, a text") == b"clusterd_who, a text"


@pytest.mark.parametrize("program", ["clusterd", "stock", ""])
def test_only_a_clusterd_master_hears_who_asked(tmp_path: Path, program: str) -> None:
    async def story() -> bytes:
        bench = Bench(tmp_path)
        bench.master.program = program
        asking = await bench.ask(bench.client("5"), b'{"daemon_name":"authd","message":' + WHO + b"}")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return bench.master.asked[0][1]

    message = json.loads(asyncio.run(story()).partition(b" ")[2])["message"]
    assert message.pop("clusterd_who", None) == ("agent-auth" if program == "clusterd" else None)
    assert message == {"function": "add", "arguments": {"name": "web-01"}}


def test_nothing_is_remembered_of_registrations_while_workers_may_do_everything() -> None:
    rights = WorkerRights(lambda: 0.0)
    rights.answered("w1", "authd", ADD_GIVEN, added("007"), "full")
    assert rights.permitted("w1", "authd", REMOVE, "read") is None


def test_only_so_many_registrations_are_remembered() -> None:
    rights = WorkerRights(lambda: 0.0)
    for number in range(5000):
        rights.answered("w1", "authd", ADD_GIVEN, added(str(number)), "read")
    assert rights.permitted("w1", "authd", REMOVE.replace(b"007", b"7"), "off") is None
    assert rights.permitted("w1", "authd", REMOVE.replace(b"007", b"4999"), "off") is not None


@pytest.mark.parametrize("allowed", ["read", "off"])
def test_what_worker_api_refuses_is_answered_and_audited_and_reaches_no_daemon(allowed: str) -> None:
    lines: list[str] = []
    told: list[tuple[str, bytes]] = []
    context = SimpleNamespace(
        clock=Clock(),
        settings=SimpleNamespace(clusterd=SimpleNamespace(worker_api=allowed)),
        tag_log=lambda tag, subtag: SimpleNamespace(debug=lambda text: None, error=lines.append),
        log=SimpleNamespace(line=lambda *parts: lines.append(" ".join(parts))),
    )
    peer = SimpleNamespace(
        link=1, name="w1", answer_late=lambda command, payload: told.append((command, payload))
    )  # nothing of it is spawned
    request = b'318 {"daemon_name":"authd","message":{"function":"remove","arguments":{"id":"007"}}}'
    answer = asyncio.run(SendsyncMaster(cast(Any, context)).sendsync(cast(Any, peer), request))
    assert answer == b"Added request to SendSync requests queue"
    why = f"this master's clusterd.worker_api is {allowed}: authd remove (id '007')"
    assert told == [("sendsyn_err", f"318 Error 4000 - Permission denied: {why}".encode())]
    assert lines == ["INFO Master API audit authd remove (id '007') asked by worker w1 (SendSync): refused with 4000."]
