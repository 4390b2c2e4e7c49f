"""Configuration assessments from private databases (dapi.md 5.7, wdb.md 2.7), through a real store."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.contracts.helpers import add_agents, quoted
from tests.dapi.agent_node import AgentNode, agent_node, codes

SCA = "wazuh.sca"
START = 1_700_000_000
CHECKS = 150


@pytest.fixture(scope="module")
def node() -> Iterator[AgentNode]:
    """Agent 1 was assessed by two policies, one with CHECKS checks; agent 2 by none."""
    with agent_node() as made:
        add_agents(made.db, 1, 2, 3)
        made.register([1, 2])
        insert(made, "sca_policy", ["cis", "cis.yml", "cis_ubuntu", "About the system", "https://cis", "aaaa"])
        insert(made, "sca_policy", ["ssh", "ssh.yml", "sshd", "About sshd", None, "bbbb"])
        insert(made, "sca_scan_info", [1, START, START + 5, "cis_ubuntu", 80, 60, 10, 150, 57, "cccc"])
        insert(made, "sca_scan_info", [2, START + 100, START + 105, "sshd", 1, 2, 0, 3, 33, "dddd"])
        made.db.command(
            f"agent 001 sql with recursive n(i) as (select 1 union all select i + 1 from n where i < {CHECKS})"
            " insert into sca_check (scan_id, id, policy_id, title, description, result, condition, file)"
            f" select 1, i, 'cis_ubuntu', 'Check ' || i, '{'x' * 900}',"
            " case when i % 2 then 'passed' else 'failed' end, 'all', '/etc/passwd' from n"
        )
        insert(made, "sca_check", [2, 500, "sshd", "Other", *[None] * 12])
        insert(made, "sca_check_compliance", [7, "cis", "1.1.7"])
        insert(made, "sca_check_compliance", [7, "pci_dss", "2.2"])
        insert(made, "sca_check_rules", [7, "file", "f:/etc/passwd"])
        yield made


def insert(node: AgentNode, table: str, row: list[Any]) -> None:
    node.db.command(f"agent 001 sql insert into {table} values ({', '.join(map(quoted, row))})")


def policies(node: AgentNode, **given: Any) -> list[str]:
    return [row["policy_id"] for row in node.items("get_sca_list", SCA, agent_list=["001"], **given).affected]


def checks(node: AgentNode, **given: Any) -> list[dict[str, Any]]:
    wanted = {"policy_id": "cis_ubuntu", "agent_list": ["001"]} | given
    return node.items("get_sca_checks", SCA, **wanted).affected


def test_policies_are_shown_with_their_last_results(node: AgentNode) -> None:
    given = {"agent_list": ["001"], "offset": 0, "limit": 500, "distinct": False, "filters": {}}
    found = node.items("get_sca_list", SCA, **given)
    assert found.total_affected == 2
    assert found.affected[0] == {
        "policy_id": "cis_ubuntu",
        "name": "cis",
        "description": "About the system",
        "references": "https://cis",
        "pass": 80,
        "fail": 60,
        "score": 57,
        "invalid": 10,
        "total_checks": 150,
        "hash_file": "aaaa",
        "start_scan": datetime.fromtimestamp(START, UTC),
        "end_scan": datetime.fromtimestamp(START + 5, UTC),
    }
    assert "references" not in found.affected[1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"filters": {"name": "SSH"}}, ["sshd"]),
        ({"filters": {"references": "null"}}, ["sshd"]),
        ({"q": "score>40"}, ["cis_ubuntu"]),
        ({"q": "end_scan<2023-11-14 22:13:30,name~s"}, ["cis_ubuntu", "sshd"]),
        ({"q": "start_scan>1d;fail=2"}, ["sshd"]),
        ({"search": {"value": "about", "negation": False}}, ["cis_ubuntu", "sshd"]),
        ({"search": {"value": "https", "negation": True}}, ["sshd"]),
        ({"sort": {"fields": ["score"], "order": "asc"}}, ["sshd", "cis_ubuntu"]),
        ({"offset": 1, "limit": 1}, ["sshd"]),
    ],
)
def test_policies_are_filtered_sorted_and_cut(node: AgentNode, given: dict[str, Any], expected: list[str]) -> None:
    assert policies(node, **given) == expected


def test_unknown_fields_are_errors(node: AgentNode) -> None:
    for given, expected in (
        ({"select": ["id"]}, 1724),
        ({"q": "file=1"}, 1408),
        ({"sort": {"fields": ["x"]}}, 1403),
        ({"limit": 0}, 1406),
        ({"filters": {"x": "1"}}, 1408),
    ):
        assert node.code("get_sca_list", SCA, agent_list=["001"], **given) == expected


def test_invalid_agent_is_a_failed_item(node: AgentNode) -> None:
    for agent in ("003", "009", "1 sql select 1", "../001"):
        assert codes(node.items("get_sca_list", SCA, agent_list=[agent])) == {agent: 1701}
        assert codes(node.items("get_sca_checks", SCA, agent_list=[agent], policy_id="x")) == {agent: 1701}
    assert node.items("get_sca_list", SCA, agent_list=["002"]).affected == []


def test_checks_of_a_policy_are_shown_with_their_lists(node: AgentNode) -> None:
    found = checks(node)
    assert [check["id"] for check in found] == list(range(1, CHECKS + 1))
    assert found[6] == {
        "id": 7,
        "policy_id": "cis_ubuntu",
        "title": "Check 7",
        "description": "x" * 900,
        "file": "/etc/passwd",
        "result": "passed",
        "condition": "all",
        "compliance": [{"key": "cis", "value": "1.1.7"}, {"key": "pci_dss", "value": "2.2"}],
        "rules": [{"type": "file", "rule": "f:/etc/passwd"}],
    }
    assert (found[0]["compliance"], found[0]["rules"]) == ([], [])
    assert checks(node, policy_id="cis_ubuntu' or '1'='1") == []


def test_checks_are_filtered_and_selected(node: AgentNode) -> None:
    assert [check["id"] for check in checks(node, filters={"result": "failed"}, limit=2)] == [2, 4]
    assert checks(node, q="id=7", select=["rules"]) == [{"rules": [{"type": "file", "rule": "f:/etc/passwd"}]}]
    assert checks(node, q="id=7", select=["title"]) == [{"title": "Check 7"}]
    assert checks(node, select=["result"], distinct=True, sort={"fields": ["result"], "order": "desc"}) == [
        {"result": "passed"},
        {"result": "failed"},
    ]
    assert node.code("get_sca_checks", SCA, agent_list=["001"], policy_id="x", select=["scan_id"]) == 1724
