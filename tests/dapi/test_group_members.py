"""Agents added to groups and removed from them (dapi.md 5.3), over a real store."""

from collections.abc import Iterator
from typing import Any

import pytest

from clusterd.dapi.files import membership
from clusterd.dapi.functions import group_members
from tests.contracts.helpers import some, trigger
from tests.dapi.agent_node import AgentNode, agent_node, codes

GROUPS = ("db", "linux", "web")
WITH_KEY = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def shared_node() -> Iterator[AgentNode]:
    with agent_node() as made:
        for name in GROUPS:
            made.answer("create_group", group_id=name)
        yield made


@pytest.fixture
def node(shared_node: AgentNode) -> AgentNode:
    """Agents 1 to 5: 1 in default, 2 in default and linux, 3 in web, 4 and 5 in none. Agent 4 has a row but no key."""
    shared_node.db.command("global sql delete from agent where id > 0")
    add(shared_node, 1, 5)
    shared_node.register(WITH_KEY)
    shared_node.db.command(
        'global set-agent-groups {"mode":"override","data":[{"id":1,"groups":["default"]},'
        '{"id":2,"groups":["default","linux"]},{"id":3,"groups":["web"]}]}'
    )
    return shared_node


def add(node: AgentNode, first: int, last: int) -> None:
    """Returns agents without a group; the store may have added some of them by their keys."""
    node.db.command(
        f"global sql with recursive n(i) as (select {first} union all select i + 1 from n where i < {last})"
        " insert or replace into agent (id, name, date_add, `group`) select i, 'agent' || i, 1700000000, null from n"
    )


def groups_of(node: AgentNode, *ids: int) -> list[str | None]:
    return [some(node.db, agent_id, "group")[0] for agent_id in ids]


def assign(
    node: AgentNode, group: str, agents: list[str] | None = None, **given: Any
) -> tuple[list[Any], dict[str, int]]:
    wanted = given | ({} if agents is None else {"agent_list": agents})
    found = node.items("assign_agents_to_group", group_list=[group], **wanted)
    return found.affected, codes(found)


def remove(node: AgentNode, group: str, agents: list[str] | None = None) -> tuple[list[Any], dict[str, int]]:
    wanted = {} if agents is None else {"agent_list": agents}
    found = node.items("remove_agents_from_group", group_list=[group], **wanted)
    return found.affected, codes(found)


# ---- assign ----------------------------------------------------------------------------------------------------------


def test_agents_are_added_to_a_group_and_the_workers_hear_of_it(node: AgentNode) -> None:
    affected, failed = assign(node, "web", ["005", "001", "003", "000", "004", "044"])
    assert affected == ["001", "005"]
    assert failed == {"003": 1751, "000": 1703, "004": 1701, "044": 1701}
    assert groups_of(node, 1, 2, 3, 5) == ["default,web", "default,linux", "web", "web"]
    assert some(node.db, 1, "group_sync_status") == ("syncreq",)
    assert some(node.db, 3, "group_sync_status") == ("synced",)


def test_group_replaces_all_others(node: AgentNode) -> None:
    assert assign(node, "web", ["001", "002", "003"], replace=True) == (["001", "002"], {"003": 1752})
    assert groups_of(node, 1, 2, 3) == ["web", "web", "web"]


def test_only_groups_that_may_be_replaced_are_replaced(node: AgentNode) -> None:
    assert assign(node, "web", ["001", "002", "005"], replace=True, replace_list=["default"]) == (
        ["001", "005"],
        {"002": 4000},
    )
    assert groups_of(node, 1, 2, 5) == ["web", "default,linux", "web"]
    # Without `replace`, the list means nothing.
    assert assign(node, "web", ["002"], replace_list=[]) == (["002"], {})
    assert assign(node, "web", ["002"], replace=True, replace_list=["linux", "default"]) == (["002"], {})
    assert groups_of(node, 2) == ["web"]


def test_all_agents_are_those_with_a_key_and_not_the_manager(node: AgentNode) -> None:
    affected, failed = assign(node, "db")
    assert affected == ["001", "002", "003", "005"]
    assert failed == {}
    assert groups_of(node, 4) == [None]


def test_agent_has_128_groups_at_most(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_members, "MOST_GROUPS", 2)
    assert assign(node, "db", ["001", "002"]) == (["001"], {"002": 1737})


def test_group_that_the_database_lacks_is_made_known(node: AgentNode) -> None:
    """A group is its directory; the database may learn of it later."""
    node.db.command("global delete-group db")
    assert assign(node, "db", ["005"]) == (["005"], {})
    assert groups_of(node, 5) == ["db"]
    for name in ("nowhere", "..", "all", "db/"):
        assert node.code("assign_agents_to_group", group_list=[name], agent_list=["001"]) == 1710


def test_agents_are_sent_in_requests_that_the_database_takes(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
    add(node, 11, 1010)
    node.register([*WITH_KEY, *range(11, 1011)])
    many = [f"{number:03d}" for number in range(11, 1011)]
    asked: list[int] = []
    ask = node.database.ask

    def counted(request: str) -> tuple[str, bytes]:
        asked.append(len(request))
        return ask(request)

    monkeypatch.setattr(node.database, "ask", counted)
    monkeypatch.setattr(membership, "BATCH_BYTES", 2000)
    assert assign(node, "linux", many) == (many, {})
    assert len(asked) > 10
    assert remove(node, "linux", many) == (many, {})
    assert set(groups_of(node, 11, 500, 1010)) == {"default"}


def test_agents_that_the_database_refuses_fail_alone(node: AgentNode) -> None:
    refusing = "before insert on belongs when new.id_agent = 5 begin select raise(abort, 'no'); end"
    with trigger(node.root, refusing):
        assert assign(node, "db", ["001", "005"]) == (["001"], {"005": 2003})


# ---- remove ----------------------------------------------------------------------------------------------------------


def test_agents_leave_a_group(node: AgentNode) -> None:
    affected, failed = remove(node, "web", ["001", "003", "000", "004"])
    assert affected == ["003"]
    assert failed == {"001": 1734, "000": 1703, "004": 1701}
    assert groups_of(node, 3) == ["default"]
    assert some(node.db, 3, "group_sync_status") == ("syncreq",)


def test_default_cannot_be_left_for_nothing(node: AgentNode) -> None:
    assert remove(node, "default", ["001", "002"]) == (["002"], {"001": 1745})
    assert groups_of(node, 1, 2) == ["default", "linux"]


def test_all_members_leave_a_group(node: AgentNode) -> None:
    assert remove(node, "default") == (["002"], {})
    assert remove(node, "linux") == (["002"], {})
    assert remove(node, "db") == ([], {})
    found = node.items("remove_agents_from_group", group_id="web")
    assert found.affected == ["003"]
    assert node.code("remove_agents_from_group", group_list=["nowhere"]) == 1710
    assert node.code("remove_agents_from_group") == 1710


def test_one_agent_leaves_one_group(node: AgentNode) -> None:
    assert "message" in node.answer("remove_agent_from_group", agent_list=["002"], group_list=["linux"])
    assert groups_of(node, 2) == ["default"]
    for agent, group, expected in (
        ("002", "linux", 1734),
        ("002", "default", 1745),
        ("002", "nowhere", 1710),
        ("000", "linux", 1703),
        ("004", "linux", 1701),
        ("044", "linux", 1701),
    ):
        assert node.code("remove_agent_from_group", agent_list=[agent], group_list=[group]) == expected


def test_one_agent_leaves_several_groups(node: AgentNode) -> None:
    found = node.items(
        "remove_agent_from_groups", agent_list=["002"], group_list=["linux", "web", "nowhere", "default"]
    )
    assert found.affected == ["linux"]
    assert codes(found) == {"web": 1734, "nowhere": 1710, "default": 1745}
    assert groups_of(node, 2) == ["default"]
    for agent, expected in (("000", 1703), ("004", 1701), ("044", 1701)):
        assert node.code("remove_agent_from_groups", agent_list=[agent]) == expected


def test_agent_that_leaves_all_groups_is_in_default(node: AgentNode) -> None:
    found = node.items("remove_agent_from_groups", agent_list=["003"])
    assert (found.affected, found.failed) == (["web"], [])
    found = node.items("remove_agent_from_groups", agent_list=["002"])
    assert (found.affected, found.failed) == (["linux"], [])
    assert groups_of(node, 2, 3) == ["default", "default"]
    assert node.items("remove_agent_from_groups", agent_list=["002"]).affected == []
