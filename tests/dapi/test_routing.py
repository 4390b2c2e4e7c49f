"""Who solves a request, and what the asker gets of their answers (dapi.md 3.1, 3.4, 3.5, 3.6)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.merge import merge
from clusterd.dapi.protocol.request import (
    ALLOW_ALL,
    DISTRIBUTED,
    LOCAL_ANY,
    LOCAL_MASTER,
    ApiRequest,
    encode_request,
    parse_request,
)
from clusterd.dapi.protocol.routing import Plan, combine, not_answered, not_connected, place_of, plan
from clusterd.errors import ClusterError
from clusterd.wire.results import WireCallable, WireException, WireResult, dump_json, load_json

CONNECTED = ["master-node", "worker1", "worker2"]
WHERE = {
    "000": "master-node",
    "001": "worker1",
    "002": "worker2",
    "003": "worker1",
    "004": "",
    "005": "unknown",
    "006": "gone",
}


class Table:
    """Agents of WHERE."""

    def of_node(self, node: str) -> Mapping[str, str]:
        return {agent: where for agent, where in WHERE.items() if where == node}

    def named(self, ids: Collection[str]) -> Mapping[str, str]:
        return {agent: where for agent, where in WHERE.items() if agent in ids}

    def all(self) -> Mapping[str, str]:
        return WHERE

    def nodes(self) -> Sequence[str]:
        return sorted(set(WHERE.values()))


def request(given: dict[str, Any], **fields: Any) -> ApiRequest:
    return ApiRequest(
        f=WireCallable("get_sca_list", "wazuh.sca", "get_sca_list"),
        f_kwargs=given,
        request_type=DISTRIBUTED,
        **({"nodes": tuple(CONNECTED)} | fields),
    )


def planned(given: dict[str, Any], **fields: Any) -> Plan:
    return plan(request(given, **fields), master="master-node", connected=CONNECTED, agents=Table(), timeout_s=10)


def asked(found: Plan) -> dict[str, Any]:
    return {node: part.f_kwargs for node, part in found.requests}


@pytest.mark.parametrize(
    ("request_type", "from_cluster", "is_master", "place"),
    [
        (LOCAL_ANY, False, True, "here"),
        (LOCAL_ANY, True, False, "here"),
        (LOCAL_MASTER, False, True, "here"),
        (LOCAL_MASTER, True, True, "here"),
        (LOCAL_MASTER, False, False, "refuse"),
        (DISTRIBUTED, True, True, "here"),
        (DISTRIBUTED, True, False, "here"),
        (DISTRIBUTED, False, True, "forward"),
        (DISTRIBUTED, False, False, "refuse"),
    ],
)
def test_place_of_a_request(request_type: Any, from_cluster: bool, is_master: bool, place: str) -> None:
    assert place_of(request_type, from_cluster=from_cluster, is_master=is_master) == place
    assert place_of(request_type, from_cluster=from_cluster, is_master=is_master, is_enabled=False) == "here"


def test_each_node_is_asked_about_its_own_agents_and_the_master_about_the_others() -> None:
    found = planned({"agent_list": ["001", "002", "003", "004", "005", "777"], "limit": 5})
    assert asked(found) == {
        "master-node": {"agent_list": ["777", "004", "005"], "limit": 5},
        "worker1": {"agent_list": ["001", "003"], "limit": 5},
        "worker2": {"agent_list": ["002"], "limit": 5},
    }
    assert all(part.from_cluster and part.api_timeout == 10 for _, part in found.requests)


def test_one_agent_is_asked_of_its_node_as_a_list() -> None:
    assert asked(planned({"agent_id": "002"})) == {"worker2": {"agent_id": ["002"]}}


def test_all_agents_go_to_every_node_that_has_some() -> None:
    found = asked(planned({"agent_list": "*"}))
    assert found == {
        "master-node": {"agent_list": ["000", "004", "005"]},
        "worker1": {"agent_list": ["001", "003"]},
        "worker2": {"agent_list": ["002"]},
        "gone": {"agent_list": ["006"]},
    }


def test_agents_of_a_node_do_not_depend_on_the_list() -> None:
    assert asked(planned({"node_id": "worker1", "agent_list": "*"})) == {"worker1": {"agent_list": ["001", "003"]}}
    assert asked(planned({"node_id": "worker2", "agent_list": "*"}, nodes=("worker2",))) == {
        "worker2": {"agent_list": ["002"]}
    }


def test_a_request_that_names_no_agents_is_1000() -> None:
    for given in (
        {"agent_list": []},
        {"agent_list": None},
        {"agent_id": ""},
        {"agent_list": [1]},
        {"agent_list": "007"},
        {"node_list": 5},
        {"node_list": True},
        {"node_list": {"worker1": 1}},
    ):
        with pytest.raises(WireException) as found:
            planned(given)
        assert found.value.code == 1000


def test_nodes_that_are_unknown_or_gone_are_failed_items() -> None:
    found = planned({"node_list": ["worker2", "nowhere", "worker1", "away"]}, nodes=(*CONNECTED, "away"))
    assert asked(found) == {"worker1": {}, "worker2": {}}
    assert [(error.code, ids) for error, ids in found.allowed.failed] == [(1730, ["nowhere", "away"])]
    answers = [Items("", affected=[node]).wire() for node in ("worker1", "worker2")]
    answer = combine(request({}), found.allowed, answers)
    assert isinstance(answer, WireResult)
    merged = Items.of_wire(answer)
    assert merged.affected == ["worker1", "worker2"]
    assert [(error.code, ids) for error, ids in merged.failed] == [(1730, ["nowhere", "away"])]


def test_malformed_answer_of_the_only_node_that_exists_is_its_failure() -> None:
    found = planned({"node_list": ["nowhere", "worker1"]})
    answer = combine(request({}), found.allowed, [WireResult("AffectedItemsWazuhResult", {"affected_items": 5})])
    assert isinstance(answer, WireException)
    assert "affected items" in str(answer)


def test_nodes_that_may_not_be_read_are_not_asked() -> None:
    permissions = {"rbac_mode": "white", "cluster:read": {"node:id:worker1": "allow"}}
    found = planned({"node_list": ["worker1", "worker2"]}, rbac_permissions=permissions)
    assert asked(found) == {"worker1": {}}
    assert [(error.code, ids) for error, ids in found.allowed.failed] == [(4000, ["worker2"])]
    assert asked(planned({}, broadcasting=True, rbac_permissions=permissions)) == {"worker1": {}}


def test_a_broadcast_goes_to_every_node_and_shows_the_masters_answer() -> None:
    found = planned({}, broadcasting=True)
    assert [node for node, _ in found.requests] == CONNECTED
    answers = [Items("", affected=[node]).wire() for node in CONNECTED]
    assert combine(request({}), found.allowed, answers) == answers[0]


def test_a_broadcast_with_a_node_list_shows_every_answer() -> None:
    found = planned({"node_list": "*"}, broadcasting=True)
    assert asked(found) == {node: {} for node in CONNECTED}
    answers = [Items("", affected=[node]).wire() for node in CONNECTED]
    answer = combine(request({}), found.allowed, answers)
    assert isinstance(answer, WireResult)
    assert answer.fields["affected_items"] == CONNECTED


def test_without_anything_that_exists_the_listing_is_the_answer() -> None:
    found = planned({"node_list": ["nowhere"]})
    assert found.requests == []
    answer = combine(request({}), found.allowed, [])
    assert isinstance(answer, WireResult)
    assert answer.fields["total_failed_items"] == 1


def test_node_that_is_away_is_an_item_of_the_answer_unless_the_asker_may_not_know_it() -> None:
    away = not_connected("worker1", ALLOW_ALL)
    assert (away.code, away.ids, away.extra_message) == (3022, ["worker1"], "worker1")
    assert (away.wire_class, away.title) == ("WazuhError", "Wazuh Cluster Error"), "dapi.md 3.5"
    read = load_json(dump_json(away))
    assert read.title == away.title
    assert merge(read, not_connected("worker2", ALLOW_ALL)).fields()["title"] == away.title  # type: ignore[union-attr]
    assert not_connected("worker1", {"rbac_mode": "white"}).code == 4000


def test_node_without_an_answer_takes_no_other_nodes_answer_away() -> None:
    found = planned({"node_list": "*"}, broadcasting=True)
    answers: list[WireResult | WireException] = [Items("", affected=[node]).wire() for node in CONNECTED]
    answers[1] = not_answered(CONNECTED[1], ALLOW_ALL, ClusterError(3021, "no answer"))
    answer = combine(request({}), found.allowed, answers)
    assert isinstance(answer, WireResult)
    merged = Items.of_wire(answer)
    assert merged.affected == [CONNECTED[0], *CONNECTED[2:]]
    assert [(error.code, ids) for error, ids in merged.failed] == [(3021, [CONNECTED[1]])]


def test_pages_cut_plain_results_only() -> None:
    plain = WireResult("WazuhResult", {"str_priority": None, "result": {"data": {"items": list(range(9))}}})
    two = Items("", affected=["a", "b"])
    answer = combine(request({"limit": 3, "offset": 1}), two, [plain])
    assert isinstance(answer, WireResult)
    assert answer.fields["result"]["data"]["items"] == [1, 2, 3]


def test_forwarded_request_has_exactly_the_keys_that_stock_knows() -> None:
    (_, part), *_ = planned({"agent_list": ["001"]}).requests
    text = encode_request(part)
    assert text.startswith(b'{"f": {"__callable__": {"__name__": "get_sca_list", "__module__": "wazuh.sca", ')
    again = parse_request(text)
    assert again == part
    assert b'"debug"' not in text
    assert b'"from_cluster": true' in text
    assert b'"api_timeout": 10' in text
