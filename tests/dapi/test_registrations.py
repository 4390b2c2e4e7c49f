"""Agents added and removed through the API (dapi.md 5.3, wdb.md 8), by the authd of a real store and by ones that
fail."""

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd.dapi.files import registration
from clusterd.dapi.files.registration import ask_authd
from clusterd.dapi.functions.registrations import AgentToAdd, DeletedAgents, add_agent, delete_agents
from clusterd.dapi.protocol.registry import Call
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.rundir import AUTH_SOCKET
from clusterd.settings import Clusterd, Limits
from clusterd.wire.results import WireCallable, WireException
from tests.contracts.helpers import put
from tests.dapi.agent_node import AgentNode, agent_node, codes
from tools.rig.guard import guarded
from tools.rig.peer import wait_until

KEY = "0123456789abcdef" * 4
FORCE = {"enabled": True, "disconnected_time": {"enabled": False, "value": "0"}, "after_registration_time": "0"}


@pytest.fixture(scope="module")
def shared_node() -> Iterator[AgentNode]:
    with agent_node() as made:
        (made.root / "etc/client.keys").write_text("")
        yield made


@pytest.fixture
def node(shared_node: AgentNode) -> AgentNode:
    """Without agents."""
    shared_node.items("delete_agents", purge=True)
    wait_for_rows(shared_node, [])
    return shared_node


def rows(node: AgentNode) -> list[int]:
    return [row["id"] for row in node.database.rows("select id from agent where id > 0 order by id")]


def wait_for_rows(node: AgentNode, expected: list[int]) -> None:
    """The database follows client.keys."""
    wait_until(lambda: rows(node) == expected, 60, f"agents {expected} in the database")


def lines_of(node: AgentNode) -> list[str]:
    return (node.root / "etc/client.keys").read_text().splitlines()


def keys(node: AgentNode) -> list[str]:
    """Returns the lines in use: other tests leave records of removed agents."""
    return [line for line in lines_of(node) if " !" not in line]


def add(node: AgentNode, name: str, **given: Any) -> dict[str, str]:
    answer = node.answer("add_agent", name=name, **given)["data"]
    assert isinstance(answer, dict)
    return answer


def test_agent_is_added_with_the_key_that_it_imports(node: AgentNode) -> None:
    made = add(node, "web-01")
    (line,) = keys(node)
    assert line.startswith(f"{made['id']} web-01 any ")
    assert base64.b64decode(made["key"]).decode() == line
    wait_for_rows(node, [int(made["id"])])
    assert node.items("get_agents_keys", agent_list=[made["id"]]).affected == [made]


def test_agent_comes_back_with_its_id_and_key(node: AgentNode) -> None:
    made = add(node, "db-01", ip="10.0.0.7", agent_id="7", key=KEY)
    assert made == {"id": "007", "key": base64.b64encode(f"007 db-01 10.0.0.7 {KEY}".encode()).decode()}


def test_what_is_taken_has_its_code_and_may_be_replaced(node: AgentNode) -> None:
    add(node, "web-01", ip="10.0.0.1", agent_id="001", key=KEY)
    wait_for_rows(node, [1])
    safe = {"enabled": False, "disconnected_time": {"enabled": True, "value": "1h"}, "after_registration_time": "1h"}
    assert node.code("add_agent", name="web-01", force=safe) == 1705
    assert node.code("add_agent", name="web-02", ip="10.0.0.1", force=safe) == 1706
    assert node.code("add_agent", name="web-02", agent_id="001", force=safe) == 1708
    assert node.code("add_agent", name="web-02", ip="nowhere") == 9006
    assert node.code("add_agent", name="web-02", force={"enabled": True}) == 9002
    put(node.db, 1, connection_status="never_connected", date_add=1)
    made = add(node, "web-01", force=FORCE)
    wait_for_rows(node, [int(made["id"])])


@pytest.mark.parametrize(
    "given",
    [
        {"name": "a b"},
        {"name": ""},
        {"name": "web\n"},
        {"name": "!web"},
        {"name": "w", "key": "short"},
        {"name": "w", "key": "k" * 128},
        {"name": "w", "key": "k" * 64 + "\n"},
        {"name": "w", "agent_id": "-1"},
        {"name": "w", "force": True},
        {},
    ],
)
def test_what_is_no_agent_is_refused_before_authd_is_asked(
    node: AgentNode, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "_sent", None)
    assert node.code("add_agent", **given) == 1000


def test_agents_are_deleted_and_the_others_are_failed_items(node: AgentNode) -> None:
    for number in range(1, 5):
        add(node, f"agent{number}", agent_id=str(number), key=KEY)
    wait_for_rows(node, [1, 2, 3, 4])
    for number, state in ((1, "active"), (2, "disconnected"), (3, "disconnected"), (4, "active")):
        put(node.db, number, connection_status=state, last_keepalive=1_000_000_000, date_add=1_000_000_000)
    named = ["000", "001", "002", "044"]
    gone = node.items("delete_agents", agent_list=named, filters={"status": ["disconnected"], "older_than": "7d"})
    assert gone.affected == ["002"]
    assert codes(gone) == {"000": 1703, "001": 1731, "044": 1701}
    assert gone.rendered()["data"]["older_than"] == "7d"
    assert [line.split()[:2] for line in keys(node)] == [["001", "agent1"], ["003", "agent3"], ["004", "agent4"]]
    assert f"002 !agent2 any {KEY}" in lines_of(node)
    # Without names, agents that do not meet the conditions are no failures.
    rest = node.items("delete_agents", purge=True, filters={"status": "all", "older_than": "0s"}, q="name=agent3")
    assert (rest.affected, codes(rest)) == (["003"], {})
    assert "agent3" not in "".join(lines_of(node))
    assert node.items("delete_agents", agent_list=[]).affected == []


@pytest.mark.slow
def test_store_with_few_places_for_a_process_deletes_all_of_many_agents() -> None:
    own = Clusterd(limits=Limits(store_connections=8))
    with agent_node(limits=own.limits) as node:
        node.settings = msgspec.structs.replace(node.settings, serves_store=True, clusterd=own)
        (node.root / "etc/client.keys").write_text("".join(f"{n:03d} agent{n} any {KEY}\n" for n in range(1, 41)))
        wait_for_rows(node, list(range(1, 41)))
        gone = node.items("delete_agents", filters={"status": "all"})
        assert (len(gone.affected), codes(gone)) == (40, {})


def test_more_agents_than_connections_at_a_time(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "AT_ONCE", 4)
    names = [f"agent{number}" for number in range(1, 11)]
    wanted = [{"name": name, "ip": "any"} for name in names]
    made = [answer for answer in ask_authd(str(node.root), "add", wanted) if isinstance(answer, dict)]
    assert [one["name"] for one in made] == names
    given = sorted(one["id"] for one in made)
    wait_for_rows(node, [int(agent_id) for agent_id in given])
    gone = node.items("delete_agents", purge=True)
    assert (gone.affected, codes(gone)) == (given, {})
    assert keys(node) == []


# ---- an authd that fails ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scripted(*answers: bytes) -> Iterator[Path]:
    """A root whose authd answers one connection after the other with these bytes, and then closes it."""
    with guarded("authd-") as root, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        path = root / AUTH_SOCKET
        path.parent.mkdir(parents=True)
        listening.bind(str(path))
        listening.listen(8)

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield root
        serving.join(60)


def framed(answer: object) -> bytes:
    text = json.dumps(answer).encode()
    return len(text).to_bytes(4, "little") + text


def test_invalid_answers_are_1014_and_later_ones_count() -> None:
    bad = [b"", b"\5\0\0\0ab", b"\xff\xff\xff\xff", framed([]), framed({"error": "x"}), framed({"error": 0, "data": 5})]
    good = framed({"error": 0, "data": "Agent deleted successfully."})
    with scripted(*bad, good, framed({"error": 9011, "message": "Agent ID not found"})) as root:
        answers = list(ask_authd(str(root), "remove", [{"id": str(number)} for number in range(len(bad) + 2)]))
    shown = [answer.code if isinstance(answer, WireException) else answer for answer in answers]
    assert shown == [1014] * len(bad) + ["Agent deleted successfully.", 1701]


def test_authd_that_says_nothing_is_waited_for_once_and_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 s for each of 1,000 agents would be hours in which no other request gets the process."""
    monkeypatch.setattr(registration, "TIMEOUT_S", 0.5)
    waits: list[float] = []
    is_heard = registration._is_heard

    def waiting(connection: socket.socket, end: float, on_step: Callable[[], None]) -> bool:
        waits.append(end - time.monotonic())
        return is_heard(connection, end, on_step)

    monkeypatch.setattr(registration, "_is_heard", waiting)
    with guarded("authd-") as root, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        path = root / AUTH_SOCKET
        path.parent.mkdir(parents=True)
        listening.bind(str(path))
        listening.listen(8)
        answers = list(ask_authd(str(root), "remove", [{"id": str(number)} for number in range(9)], at_once=3))
    assert len(waits) == 3
    assert max(waits[1:]) <= 0, "they waited together"
    texts = [str(answer) for answer in answers]
    assert ["timed out" in text for text in texts] == [True] * 3 + [False] * 6
    assert all("not asked" in text for text in texts[3:])


def test_without_authd_it_is_1013(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
    add(node, "web-01", agent_id="001", key=KEY)
    wait_for_rows(node, [1])
    monkeypatch.setattr(registration, "AUTH_SOCKET", "queue/sockets/nobody")
    assert node.code("add_agent", name="web-02") == 1013
    assert node.code("delete_agents", agent_list=["001"]) == 1013
    monkeypatch.undo()
    assert node.items("delete_agents", agent_list=["001"]).affected == ["001"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_only_clusterds_own_store_hears_who_asks(
    node: AgentNode, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    sent: list[dict[str, Any]] = []
    send = registration._sent

    def seen(root: str, request: dict[str, Any], *others: Any) -> socket.socket:
        sent.append(request)
        return send(root, request, *others)

    monkeypatch.setattr(registration, "_sent", seen)
    settings = msgspec.structs.replace(node.settings, serves_store=is_ours)
    name = WireCallable("add_agent", "wazuh.agent", "add_agent")
    add_agent(Call(settings, ApiRequest(name, current_user="ann"), node.database), AgentToAdd("web-09"))
    delete_agents(Call(settings, ApiRequest(name, current_user="ann"), node.database), DeletedAgents(q="name=web-09"))
    assert [request.get("clusterd_who") for request in sent] == ["ann" if is_ours else None] * 2


def test_answer_of_another_form_to_add_is_1014(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterd.dapi.functions.registrations.ask_authd", lambda *given, **more: iter([{"id": 7}]))
    assert node.code("add_agent", name="web-02") == 1014


def test_a_store_of_ours_may_wait_for_a_candidate_while_the_process_shows_that_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registration, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(registration, "_STEP_S", 0.1)
    steps: list[float] = []
    go_on = threading.Event()

    def on_step() -> None:
        steps.append(time.monotonic())
        if len(steps) == 5:
            go_on.set()

    def late(connection: socket.socket) -> None:
        with connection:
            connection.recv(65_536)
            go_on.wait(60)
            connection.sendall(framed({"error": 0, "data": "Agent deleted successfully."}))

    with guarded("authd-") as root, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        path = root / AUTH_SOCKET
        path.parent.mkdir(parents=True)
        listening.bind(str(path))
        listening.listen(8)
        serving = threading.Thread(target=lambda: late(listening.accept()[0]))
        serving.start()
        answers = list(ask_authd(str(root), "remove", [{"id": "1"}], on_step, who="ann"))
        serving.join()
    assert answers == ["Agent deleted successfully."]
