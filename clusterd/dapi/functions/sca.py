"""Results of configuration assessments, from an agent's private database on the node it reports to (dapi.md 5.7, wdb.md
2.7)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from clusterd.dapi.protocol.access import agent_ids
from clusterd.dapi.protocol.actions import READ_SCA
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Call, Registry
from clusterd.dapi.query.agent_fields import moment_of
from clusterd.dapi.query.sql_condition import Condition
from clusterd.dapi.query.table_query import Table, TableArguments, TableQuery, find_rows, selected_fields
from clusterd.wire.results import WireException

registry = Registry()

POLICIES = Table(
    source="sca_policy p join sca_scan_info s on s.policy_id = p.id",
    columns={
        "policy_id": "p.id",
        "name": "p.name",
        "description": "p.description",
        "references": "p.`references`",
        "pass": "s.pass",
        "fail": "s.fail",
        "score": "s.score",
        "invalid": "s.invalid",
        "total_checks": "s.total_checks",
        "hash_file": "p.hash_file",
        "start_scan": "s.start_scan",
        "end_scan": "s.end_scan",
    },
    key="s.id",
    numbers=frozenset({"pass", "fail", "score", "invalid", "total_checks"}),
    dates=frozenset({"start_scan", "end_scan"}),
)
_TEXTS = ("title", "description", "rationale", "remediation", "file", "process", "directory", "registry", "command")
CHECKS = Table(
    source="sca_check",
    columns={"id": "id", "policy_id": "policy_id"}
    | {name: name for name in _TEXTS}
    | {"references": "`references`", "result": "result", "reason": "reason", "condition": "condition"},
    key="id",
    numbers=frozenset({"id"}),
)
PARTS: Mapping[str, tuple[str, tuple[str, str]]] = {
    "compliance": ("sca_check_compliance", ("key", "value")),
    "rules": ("sca_check_rules", ("type", "rule")),
}
"""The lists of a check: their table and the columns of their objects."""
_MESSAGES = (
    "All selected assessment information was returned",
    "Some assessment information was not returned",
    "No assessment information was returned",
)


class PolicyList(TableArguments, frozen=True, kw_only=True):
    agent_list: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]


class CheckList(PolicyList, frozen=True, kw_only=True):
    policy_id: str


@registry.function("wazuh.sca", "get_sca_list", needs=(READ_SCA,))
def get_sca_list(call: Call, given: PolicyList) -> Items:
    """Returns the policies that an agent was assessed by, with their last results. Failed item: 1701. Raises
    WireException 1400 to 1412, 1724, DatabaseError."""
    (agent,) = given.agent_list
    items = Items(*_MESSAGES, sort_casting=["str"])
    if not _is_there(call, agent, items):
        return items
    fields = selected_fields(POLICIES, given.select)
    rows, total = find_rows(call.database, POLICIES, _query(given, ["policy_id"]), fields, agent=agent)
    items.affected, items.total = [_shown(row, fields, POLICIES.dates) for row in rows], total
    return items


@registry.function("wazuh.sca", "get_sca_checks", needs=(READ_SCA,))
def get_sca_checks(call: Call, given: CheckList) -> Items:
    """Returns the checks of one policy, with `compliance` and `rules`. Failed item and errors as get_sca_list. `q`,
    sort and search apply to the fields that are not lists."""
    (agent,) = given.agent_list
    items = Items(*_MESSAGES, sort_casting=["str"])
    if not _is_there(call, agent, items):
        return items
    parts = [name for name in PARTS if given.select is None or name in given.select]
    if given.distinct:
        parts = []
    select = None if given.select is None else [name for name in given.select if name not in parts]
    fields = [] if select == [] else selected_fields(CHECKS, select)
    policy = Condition("policy_id = ?", (given.policy_id,))
    rows, total = find_rows(call.database, CHECKS, _query(given, ["id"], [policy]), fields, agent=agent)
    items.affected, items.total = [_shown(row, fields, CHECKS.dates) for row in rows], total
    for name in parts:
        lists = _lists(call, agent, name, [row["k"] for row in rows])
        for shown, row in zip(items.affected, rows, strict=True):
            shown[name] = lists.get(row["k"], [])
    return items


def _is_there(call: Call, agent: str, items: Items) -> bool:
    """Tells whether the agent has a key and a row in this node's database; otherwise it becomes the failed item."""
    there = agent in agent_ids(call.root)
    if there:
        there = bool(call.database.rows("select id from agent where id = ?", [int(agent)]))
    if not there:
        items.fail(agent, WireException(1701))
    return there


def _query(given: TableArguments, order: Sequence[str], where: Sequence[Condition] = ()) -> TableQuery:
    wanted = given.wanted
    return TableQuery(**wanted | {"where": where, "sort": wanted["sort"] or order})


def _shown(row: Mapping[str, Any], fields: Sequence[str], dates: frozenset[str]) -> dict[str, Any]:
    """Returns a row as the API shows it; null values are left out."""
    shown: dict[str, Any] = {}
    for number, field in enumerate(fields):
        value = row.get(f"f{number}")
        if value is not None:
            shown[field] = moment_of(value) if field in dates else value
    return shown


def _lists(call: Call, agent: str, name: str, checks: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    table, (first, second) = PARTS[name]
    select = f"select id_check as k, `{first}` as a, `{second}` as b from {table}"
    found: dict[int, list[dict[str, Any]]] = {}
    for row in call.database.rows_of(select, "id_check", checks, agent=agent):
        found.setdefault(row["k"], []).append({first: row.get("a", ""), second: row.get("b", "")})
    return found
