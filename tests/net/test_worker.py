"""A worker's link to its master: joining, being refused, losing the link, coming back."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from clusterd.clock import Backoff, Clock
from clusterd.listening.addresses import Found
from clusterd.messages.links import Answered, KeepaliveSeen, LinkDown, MasterAway, PeerRequest, Reply, Request
from clusterd.net import dial
from clusterd.net.dial import Address, parse_address
from clusterd.rounds import Rounds
from clusterd.settings import Settings
from tests.net.harness import CLUSTER, NetNode, master_settings, wait_until
from tests.net.scripted_master import HELLO, ScriptedMaster
from tools.rig.peer import exception_json
from tools.rig.ports import free_port

Worker = Callable[..., NetNode]
Master = Callable[..., NetNode]


@pytest.fixture
def boss() -> Iterator[ScriptedMaster]:
    master = ScriptedMaster()
    yield master
    master.close()


@pytest.mark.parametrize(
    ("node", "address"),
    [
        ("10.0.0.1", Address("10.0.0.1", 1516)),
        ("master.example:99", Address("master.example", 99)),
        ("[::1]:99", Address("::1", 99)),
        ("[::1]", Address("::1", 1516)),
        ("fe80::1", Address("fe80::1", 1516)),
    ],
)
def test_an_address_may_have_a_port_and_be_ipv6(node: str, address: Address) -> None:
    assert parse_address(node, 1516) == address


def test_a_worker_joins_and_sync_learns_of_its_master(worker: Worker, boss: ScriptedMaster) -> None:
    node = worker("w1", boss.node)
    talker = boss.welcome()
    assert node.sync is not None
    info = node.sync.link(kind="master")
    assert (info.name, info.address) == (boss.node, "127.0.0.1")
    node.logged("INFO: [Worker w1] [Main] Successfully connected to master.")
    wait_until(Path(node.root, "queue/cluster/w1").is_dir, "the node's directory")
    for command, answer in (("echo", b"ok"), ("echo-m", b"ok-c")):
        message = talker.ask(command, "hi")
        assert (message.command, message.payload) == (answer, b"hi")
    for command in ("echo-c", "nope", "get_nodes", "hello"):
        assert talker.ask(command, "hi").payload == f"unknown command 'b'{command}''".encode()
    assert node.lines("DEBUG: [Worker w1] [Main] Command received: 'b'echo-m''")


def test_requests_pass_between_sync_and_the_master(worker: Worker, boss: ScriptedMaster) -> None:
    node = worker("w1", boss.node)
    talker = boss.welcome()
    sync = node.sync
    assert sync is not None
    link = sync.link(kind="master").link
    sync.send(Request(link, 1, "syn_i_w_m_p"))
    request = talker.read()
    talker.respond(request, "ok", "True")
    assert sync.expect(Answered) == Answered(1, "ok", b"True")
    counter = talker.tell("syn_m_c")
    asked = sync.expect(PeerRequest)
    sync.send(Reply(link, asked.serial, "ok", b"task"))
    assert talker.answer_to(counter).payload == b"task"


def test_a_request_right_behind_the_answer_to_hello_is_served(worker: Worker, boss: ScriptedMaster) -> None:
    node = worker("w1", boss.node)
    talker = boss.accept()
    hello = talker.read()
    frames: list[bytes] = []
    talker.send = frames.append  # type: ignore[method-assign]
    talker.respond(hello, "ok", "Client w1 added")
    counter = talker.tell("echo-m", "at once")
    talker.sock.sendall(b"".join(frames))
    assert talker.answer_to(counter).payload == b"at once"
    assert node.sync is not None
    node.sync.link(kind="master")


def test_a_refused_worker_says_why_and_tries_again(worker: Worker, boss: ScriptedMaster) -> None:
    node = worker("w1", boss.node)
    talker = boss.accept()
    talker.respond(talker.read(), "err", exception_json(3028, "w1"))
    assert talker.is_closed()
    node.logged(
        "ERROR: [Worker w1] [Main] Could not connect to master: Error 3028 - Worker node ID already exists: w1."
    )
    node.logged("INFO: [Worker w1] [Main] The master closed the connection")
    talker = boss.accept()
    talker.respond(talker.read(), "err", "plain text")
    node.logged("Could not connect to master: Error 3000 - Cluster: plain text.")
    boss.welcome()
    assert node.sync is not None
    node.sync.link(kind="master")


def test_a_master_that_does_not_answer_hello_is_given_up(worker: Worker, boss: ScriptedMaster) -> None:
    node = worker("w1", boss.node, timeout_cluster_request_s=0.3)
    talker = boss.accept()
    assert talker.is_closed()
    node.logged("Could not connect to master: Error 3020 - Timeout sending request: hello.")


def test_a_master_with_another_key_closes_and_the_worker_tries_again(worker: Worker, master: Master) -> None:
    boss = master()
    node = worker("w1", f"127.0.0.1:{boss.settings.cluster.port}", cluster_key=b"f" * 32)
    node.logged("INFO: [Worker w1] [Main] The master closed the connection")
    boss.logged("Error 3025 - Could not decrypt message.")
    wait_until(lambda: len(node.lines("The master closed the connection")) > 1, "another try")


def test_a_refused_connection_is_tried_again_and_says_so(worker: Worker) -> None:
    port = free_port()
    node = worker("w1", f"127.0.0.1:{port}")
    node.logged("ERROR: [Worker w1] [Main] Could not connect to master. Trying again in 10 seconds.")
    own = f"WARNING: [Worker w1] [Net] No connection to the master at 127.0.0.1:{port}: Connection refused."
    node.logged(own)
    # It stays reported once, whatever program of this machine connects meanwhile.
    assert node.local().ask("echo", "x").payload == b"x"
    wait_until(lambda: len(node.lines("Trying again in 10 seconds")) > 2, "more attempts")
    assert len(node.lines(own)) == 1
    boss = ScriptedMaster(port=port)
    boss.welcome()
    node.logged("Successfully connected to master.")
    boss.close()


def test_a_host_that_does_not_exist_is_named_in_the_log(worker: Worker) -> None:
    node = worker("w1", "no-such-host.invalid")
    assert node.logged("Could not connect to master: ").endswith(". Trying again in 10 seconds.")


def test_addresses_are_tried_in_order(worker: Worker, boss: ScriptedMaster) -> None:
    closed = f"127.0.0.1:{free_port()}"
    node = worker("w1", closed, boss.node)
    boss.welcome()
    node.logged(f"ERROR: [Worker w1] [Net] Could not connect to {closed}: ")
    node.logged("Successfully connected")
    assert not node.lines("Trying again in 10 seconds")


def test_after_an_address_that_refuses_the_hello_the_next_one_is_tried(worker: Worker, boss: ScriptedMaster) -> None:
    other = ScriptedMaster()
    node = worker("w1", other.node, boss.node)
    talker = other.accept()
    talker.respond(talker.read(), "err", exception_json(3030))
    boss.welcome()
    node.logged("Successfully connected to master.")
    other.close()


def test_a_lost_master_is_dialled_again(worker: Worker, boss: ScriptedMaster) -> None:
    node = worker("w1", boss.node)
    first = boss.welcome()
    sync = node.sync
    assert sync is not None
    link = sync.link(kind="master").link
    first.close()
    assert sync.expect(LinkDown).link == link
    node.logged("INFO: [Worker w1] [Main] The master closed the connection")
    second = boss.welcome()
    assert sync.link(kind="master").link != link
    second.reset()
    node.logged("ERROR: [Worker w1] [Main] Connection closed due to an unhandled error: ")
    boss.welcome()


def test_sync_hears_why_there_is_no_master(worker: Worker) -> None:
    boss = ScriptedMaster()
    node = worker("w1", boss.node)
    sync = node.sync
    assert sync is not None
    boss.accept().close()
    why = f"{boss.node}: it closed the connection instead of answering hello; does it have the same cluster key?"
    assert sync.expect(MasterAway).reason.startswith(why)
    talker = boss.accept()
    talker.respond(talker.read(), "err", exception_json(3030))
    refused = sync.expect(MasterAway).reason
    assert "Error 3030" in refused
    assert f'our cluster name is "{CLUSTER}"' in refused
    other = boss.accept()
    other.read()
    other.sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    assert sync.expect(MasterAway).reason == f"{boss.node}: this is no cluster port, it speaks HTTP"
    boss.welcome().close()
    assert sync.expect(MasterAway).reason == f"{boss.node}: the connection was closed"
    boss.close()
    assert "refused" in sync.expect(MasterAway).reason.lower()
    assert "refused" in sync.hello().away.lower()
    assert len(node.lines("does it have the same cluster key?")) == 1


def test_sync_hears_of_every_address_why_it_is_not_the_master(worker: Worker) -> None:
    """Of two candidates the last one has often nothing to do with why the other one refuses this node."""
    boss, other = ScriptedMaster(), ScriptedMaster()
    other.close()
    node = worker("w1", boss.node, other.node)
    sync = node.sync
    assert sync is not None
    for _ in range(3):
        talker = boss.accept()
        talker.respond(talker.read(), "err", exception_json(3028))
    refused, both = sync.expect(MasterAway).reason, sync.expect(MasterAway).reason
    assert refused.startswith(f"{boss.node}: Error 3028")
    assert both == f"{refused}; {other.node}: Connection refused"
    assert len(node.lines("does not take this node")) == 1
    boss.close()


def test_local_clients_stay_when_the_master_is_lost(worker: Worker, boss: ScriptedMaster) -> None:
    """Stock drops them and closes its local socket for ten seconds (wire.md C18)."""
    node = worker("w1", boss.node)
    client = node.local()
    boss.welcome().close()
    node.logged("The master closed the connection")
    assert client.ask("echo", "x").payload == b"x"


def test_keepalives_are_sent_and_reported(worker: Worker, boss: ScriptedMaster) -> None:
    node = worker("w1", boss.node, keep_alive_s=0.2)
    talker = boss.welcome()
    for _ in range(2):
        request = talker.read()
        assert (request.command, request.payload) == (b"echo-c", b"keepalive")
        talker.respond(request, "ok-m ", "keepalive")
    node.logged("INFO: [Worker w1] [Keep Alive] Successful response from master: keepalive")
    assert node.sync is not None
    assert node.sync.expect(KeepaliveSeen).link == node.sync.link(kind="master").link


def test_a_master_that_misses_the_allowed_number_of_keepalives_is_disconnected(
    worker: Worker, boss: ScriptedMaster
) -> None:
    node = worker("w1", boss.node, keep_alive_s=0.1, timeout_cluster_request_s=0.2, max_failed_keepalive_attempts=2)
    talker = boss.welcome()
    assert talker.read().command == b"echo-c"
    assert talker.is_closed()
    assert node.lines("[Keep Alive]") == [
        "ERROR: [Worker w1] [Keep Alive] Error sending keep alive: Error 3020 - Timeout sending request: echo-c",
        "ERROR: [Worker w1] [Keep Alive] Error sending keep alive: Error 3020 - Timeout sending request: echo-c",
        "ERROR: [Worker w1] [Keep Alive] Maximum number of failed keep alives reached. Disconnecting.",
    ]
    boss.welcome()


def test_an_err_to_a_keepalive_counts_as_failed(worker: Worker, boss: ScriptedMaster) -> None:
    node = worker("w1", boss.node, keep_alive_s=0.1, max_failed_keepalive_attempts=3)
    talker = boss.welcome()
    talker.respond(talker.read(), "err", "no")
    talker.respond(talker.read(), "ok-m", "keepalive")
    node.logged("ERROR: [Worker w1] [Keep Alive] Error sending keep alive: Error 3000 - Cluster: no")
    node.logged("Successful response from master: keepalive")


@pytest.mark.slow
def test_two_clusterd_nodes_stay_together(worker: Worker, master: Master) -> None:
    boss = master()
    nodes = [worker(f"w{n}", f"127.0.0.1:{boss.settings.cluster.port}", keep_alive_s=0.3) for n in range(3)]
    for node in nodes:
        node.logged("Successful response from master: keepalive")
    wait_until(lambda: boss.counter("connections") == 3, "three connections")


def test_ipv6_works_on_both_sides(worker: Worker, master: Master) -> None:
    boss = master(bind_addr="::1")
    boss.logged(f"Serving on ('::1', {boss.settings.cluster.port})")
    node = worker("w1", f"[::1]:{boss.settings.cluster.port}")
    node.logged("Successfully connected to master.")
    assert boss.sync is not None
    assert boss.sync.link("w1").address == "::1"


def test_worker_of_ipv4_has_an_address_of_ipv4_where_both_families_are_served(worker: Worker, master: Master) -> None:
    boss = master(bind_addr="::")
    worker("w1", f"127.0.0.1:{boss.settings.cluster.port}").logged("Successfully connected to master.")
    boss.logged("INFO: [Worker] [Main] Connection from ('127.0.0.1', ")
    assert boss.sync is not None
    assert boss.sync.link("w1").address == "127.0.0.1"


def test_a_host_name_works(worker: Worker, master: Master) -> None:
    boss = master()
    node = worker("w1", f"localhost:{boss.settings.cluster.port}")
    node.logged("Successfully connected to master.")


def test_a_host_name_is_told_with_what_it_means(worker: Worker) -> None:
    """Where a master has moved and the name still means its former address, nothing else tells it."""
    port = free_port()
    node = worker("w1", f"localhost:{port}")
    node.logged(
        f"WARNING: [Worker w1] [Net] No connection to the master at localhost:{port}: Connection refused (localhost is "
    )
    assert node.sync is not None
    assert "(localhost is " in node.sync.expect(MasterAway).reason


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sslmanager.cert` and `.key` for localhost, signed by itself."""
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", directory / "sslmanager.key", "-out", directory / "sslmanager.cert"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return directory


def tls(certificate: Path) -> dict[str, object]:
    return {
        "enabled": True,
        "cert": str(certificate / "sslmanager.cert"),
        "tls_key": str(certificate / "sslmanager.key"),
    }


# ---- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tls_carries_the_same_protocol_and_large_bodies(master: Master, certificate: Path) -> None:
    node = master(**tls(certificate))
    context = ssl.create_default_context(cafile=str(certificate / "sslmanager.cert"))
    client = node.join("w1", tls=context)
    assert client.ask("echo", "x").payload == b"x"
    sync = node.sync
    assert sync is not None
    link = sync.link("w1").link
    content = bytes(range(256)) * 20_000
    for _ in range(10):
        counter = client.tell("echo", content)
        request = sync.expect(PeerRequest)
        sync.send(Reply(link, request.serial, "ok", body=request.body))
        assert client.answer_to(counter).payload == content


@pytest.mark.slow
def test_a_worker_verifies_its_master(worker: Worker, master: Master, certificate: Path) -> None:
    boss = master(**tls(certificate))
    address = f"localhost:{boss.settings.cluster.port}"
    trusting = worker("w1", address, enabled=True, ca=str(certificate / "sslmanager.cert"))
    trusting.logged("Successfully connected to master.")
    careful = worker("w2", address, enabled=True)
    assert "CERTIFICATE_VERIFY_FAILED" in careful.logged("Could not connect to master: ")
    careless = worker("w3", address, enabled=True, verify=False)
    careless.logged("Successfully connected to master.")


def test_a_plain_peer_and_a_silent_one_at_a_tls_port_are_closed_in_time(master: Master, certificate: Path) -> None:
    node = master(handshake_timeout_s=0.5, **tls(certificate))
    plain, silent = node.connect(), node.connect()
    plain.tell("hello", HELLO)
    assert plain.is_closed()
    assert silent.is_closed()
    wait_until(lambda: node.counter("handshakes") == 0, "nothing is left")
    assert node.lines("Error during handshake with incoming connection: TLS")


def test_a_missing_certificate_is_a_reason_not_to_start() -> None:
    node = NetNode(lambda root: master_settings(root, enabled=True))
    try:
        node.spawn()
        assert wait_until(node.ended, "net ends") == 3
        assert "No such file" in Path(node.root, "var/run/clusterd/reason").read_text()
    finally:
        node.close()


# ---- stop and idle ---------------------------------------------------------------------------------------------------


def test_a_stop_answers_what_is_asked_and_closes_the_links(master: Master) -> None:
    node = master()
    client = node.join("w1")
    sync = node.sync
    assert sync is not None
    counter = client.tell("syn_i_w_m_p")
    request = sync.expect(PeerRequest)
    os.kill(node.pid, signal.SIGTERM)
    wait_until(lambda: node.row().state == "stopping", "net is stopping")
    with pytest.raises(OSError):
        socket.create_connection(node.address, timeout=1)
    sync.send(Reply(request.link, request.serial, "ok", b"True"))
    assert client.answer_to(counter).payload == b"True"
    assert client.is_closed()
    assert wait_until(lambda: node.ended() is not None, "net ends")


def test_a_worker_stops_at_once(worker: Worker, boss: ScriptedMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterd.net.process.DRAIN_S", 300.0)  # `stop` waits less
    node = worker("w1", boss.node)
    talker = boss.welcome()
    node.logged("Successfully connected")
    assert node.stop() == 0
    assert talker.is_closed()


def test_a_worker_that_hears_of_another_master_in_the_moment_in_which_it_is_connected_dials_again(
    worker: Worker, boss: ScriptedMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop closes the transport of a cancelled `create_connection` without telling its protocol, which it may have
    connected before: after that the worker waited for the end of this connection for ever."""
    real_connect = dial.connect
    hasty = True

    class Hasty(dial.Dialer):
        async def _connect(self, address: Address, is_last: bool) -> Any:
            async def connect(found: list[Found]) -> socket.socket:
                nonlocal hasty
                connected = await real_connect(found)
                if hasty:
                    asyncio.get_running_loop().call_soon(self.look_elsewhere)
                hasty = False
                return connected

            dial.connect = connect
            return await super()._connect(address, is_last)

    monkeypatch.setattr("clusterd.net.process.Dialer", Hasty)
    worker("w1", boss.node)
    assert boss.accept().is_closed()
    boss.welcome()


def test_pauses_between_attempts_follow_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    longest: list[float] = []

    class NoPause(Backoff):
        def __init__(self, initial_s: float, maximum_s: float, **how: float) -> None:
            super().__init__(0.0, 0.0)
            longest.append(maximum_s)

    monkeypatch.setattr(dial, "Backoff", NoPause)
    settings = Settings("/")
    context: Any = SimpleNamespace(settings=settings, rounds=Rounds(lambda *_: None), clock=Clock())
    terms: Any = SimpleNamespace(term=0)
    nobody: Any = None

    async def story() -> None:
        dialer = dial.Dialer(context, nobody, nobody, nobody, None, terms)
        rounds = 0

        async def one_round(*, alone: bool) -> float:
            assert not alone
            nonlocal rounds
            rounds += 1
            if rounds == 3:
                own = msgspec.structs.replace(settings.worker, connection_retry_s=50.0)
                context.settings = msgspec.structs.replace(settings, worker=own)
            if rounds == 6:
                raise asyncio.CancelledError
            return 0.0

        monkeypatch.setattr(dialer, "_one_round", one_round)
        with pytest.raises(asyncio.CancelledError):
            await dialer.run()

    asyncio.run(story())
    assert longest == [*reversed(dial.CHANGE_PAUSES), 10.0 / (1 + dial.JITTER), 50.0 / (1 + dial.JITTER)]
