"""The journal's events about registrations and groups."""

import json
import socket
import subprocess
import sys
from pathlib import Path

from clusterd.messages.journal import GroupEvent, RegistrationEvent
from clusterd.store.events import MOST_EVENTS, MOST_NAMED, group_events
from clusterd.store.stream import program_of
from tests.store.live_authd import Node, live_authd


def test_added_and_removed_keys_are_events_once_on_the_disk_and_without_the_key(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        added = await node.add("web", "10.0.0.7")
        asked = {"function": "add", "arguments": {"name": "db", "ip": "any"}, "clusterd_through": "w1"}
        await node.authd.answer(json.dumps(asked).encode())
        await node.ask("remove", id=added["data"]["id"])
        assert added["data"]["key"] not in repr(node.events.told)

    node = live_authd(tmp_path, work)
    assert node.events.told == [
        RegistrationEvent(what="added", agent="001", name="web", ip="10.0.0.7"),
        RegistrationEvent(what="added", agent="002", name="db", ip="any", through="w1"),
        RegistrationEvent(what="removed", agent="001", name="web", ip="10.0.0.7"),
    ]


def test_the_user_is_named_by_the_request_or_by_the_program_at_the_socket(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        for name, members in (
            ("a", {}),
            ("b", {"clusterd_who": "ann"}),
            ("c", {"clusterd_through": "w1"}),
            ("d", {"clusterd_through": "w1", "clusterd_who": "agent-auth"}),
            ("e", {"clusterd_who": 5}),
            ("manager", {"clusterd_who": "ann"}),
        ):
            request = {"function": "add", "arguments": {"name": name, "ip": "any"}, **members}
            await node.authd.answer(json.dumps(request).encode(), "manage_agents")

    told = live_authd(tmp_path, work).events.told
    assert [(event.name, event.through, event.who) for event in told if isinstance(event, RegistrationEvent)] == [
        ("a", "", "manage_agents"),
        ("b", "", "ann"),
        ("c", "w1", ""),
        ("d", "w1", "agent-auth"),
        ("e", "", "manage_agents"),
        ("manager", "", "ann"),
    ]


def test_program_at_the_socket_is_named_and_a_script_not_by_its_interpreter(tmp_path: Path) -> None:
    path, script = tmp_path / "s", tmp_path / "enrol.py"
    script.write_text("import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        for words, name in (([str(script)], "enrol.py"), (["-u", str(script)], "python")):
            with subprocess.Popen([sys.executable, *words, str(path)]) as asker:
                client, _ = listening.accept()
                with client:
                    assert program_of(client).startswith(name)
                    asker.kill()
                    asker.wait()
                    assert program_of(client) == "", "it is gone"


def test_repeated_refusal_of_a_registration_is_one_event(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        for _ in range(5):
            await node.add("manager")
        for _ in range(3):
            await node.add("web", "no address")

    told = live_authd(tmp_path, work).events.told
    assert told == [
        RegistrationEvent(what="refused", name="manager", ip="any", why="Duplicate name (9008)"),
        RegistrationEvent(what="refused", name="web", ip="no address", why="No such IP (9006)"),
    ]


def test_agents_that_get_the_same_groups_are_one_event() -> None:
    data = [{"id": number, "groups": ["a", "b"]} for number in range(1, 31)] + [{"id": 99, "groups": ["c"]}]
    first, second = group_events({"mode": "override", "data": data})
    assert first == GroupEvent(
        what="assigned", agent=",".join(f"{n:03}" for n in range(1, MOST_NAMED + 1)), agents=30, group="a,b"
    )
    assert second == GroupEvent(what="assigned", agent="099", agents=1, group="c")
    assert group_events({"mode": "remove", "data": data[-1:]})[0].what == "unassigned"
    assert group_events({"mode": "empty_only", "data": data}) == []
    many = [{"id": number, "groups": [f"g{number}"]} for number in range(100)]
    assert len(group_events({"mode": "append", "data": many})) == MOST_EVENTS
    assert group_events(["nonsense"]) == group_events({"mode": "append", "data": [1, {"groups": 2}]}) == []
