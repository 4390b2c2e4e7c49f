"""What the journal hears of registrations and groups."""

import json
from pathlib import Path

from clusterd.messages.journal import GroupEvent, RegistrationEvent
from clusterd.store.events import MOST_EVENTS, MOST_NAMED, group_events
from tests.store.live_authd import Node, live_authd


def test_keys_that_come_and_go_are_told_once_they_are_on_the_disk_and_never_the_key(tmp_path: Path) -> None:
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


def test_refused_registration_is_told_once_in_a_while(tmp_path: Path) -> None:
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
