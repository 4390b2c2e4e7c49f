"""Compares the agent databases of a rig: with each other where they must be equal, and the master's with the agents'
last reports."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.rig.agents_talk import Row
from tools.rig.nodes import Rig, RigNode
from tools.rig.wdb_client import WdbClient, WdbError

SHOWN = 20
TEXTS = (
    "name",
    "ip",
    "os_name",
    "os_version",
    "os_major",
    "os_minor",
    "os_codename",
    "os_platform",
    "os_arch",
    "version",
    "config_sum",
    "merged_sum",
    "manager_host",
    "node_name",
    "connection_status",
)
EMPTY: dict[str, Any] = dict.fromkeys(TEXTS, "") | {"status_code": 0}
"""Values that stand for NULL in the compared columns."""
TIMEOUT_S = 60.0


@dataclass
class AgentsComparison:
    """`differences`: kind of difference to a line for each. `unanswered`: nodes whose database could not be asked, and
    why."""

    agents: int = 0
    differences: dict[str, list[str]] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)

    @property
    def is_equal(self) -> bool:
        return not self.differences and not self.unanswered

    def note(self, kind: str, line: str) -> None:
        self.differences.setdefault(kind, []).append(line)

    def lines(self) -> Iterator[str]:
        """Yields lines for people; at most SHOWN of a kind."""
        for node, why in self.unanswered.items():
            yield f"{node} was not compared: {why}"
        for kind, found in self.differences.items():
            for line in found[:SHOWN]:
                yield f"{kind}: {line}"
            if len(found) > SHOWN:
                yield f"{kind}: and {len(found) - SHOWN} more"


def compare_agents(rig: Rig, truth: dict[int, Row]) -> AgentsComparison:
    """Compares agents, groups and checksum of every node with the master's, the master's rows with the agents' last
    reports, and its agents with client.keys."""
    result = AgentsComparison()
    try:
        with WdbClient(rig.master.root, TIMEOUT_S) as master:
            groups, rows, checksum = _groups(master), _rows(master), master.group_hash()
    except WdbError as failure:
        result.unanswered[rig.master.name] = str(failure)
        return result
    result.agents = len(rows)
    for agent_id, said in truth.items():
        _compare_row(result, agent_id, said, rows.get(agent_id))
    _compare_keys(result, rig.master.root, set(rows))
    for node in rig.workers:
        _compare_node(result, node, set(rows), groups, checksum)
    return result


def _compare_row(result: AgentsComparison, agent_id: int, said: Row, row: dict[str, Any] | None) -> None:
    if row is None:
        result.note("rows", f"agent {agent_id} is not in the master's database")
        return
    for column, value in said.items():
        if row[column] != value:
            result.note("rows", f"agent {agent_id}: {column} is {row[column]!r}, it said {value!r}")


def _compare_keys(result: AgentsComparison, root: Path, ids: set[int]) -> None:
    path = root / "etc/client.keys"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    keys = set()
    for line in lines:
        parts = line.split(" ")
        if len(parts) == 4 and parts[0].isdigit() and not parts[1].startswith(("!", "#")):
            keys.add(int(parts[0]))
    for agent_id in sorted(ids - keys):
        result.note("keys", f"agent {agent_id} has no key")
    for agent_id in sorted(keys - ids):
        result.note("keys", f"key {agent_id} has no agent in the master's database")


def _compare_node(
    result: AgentsComparison,
    node: RigNode,
    agents: set[int],
    groups: dict[int, tuple[str, ...]],
    checksum: str | None,
) -> None:
    try:
        with WdbClient(node.root, TIMEOUT_S) as client:
            known = set(client.ids("get-all-agents last_id"))
            theirs, their_checksum = _groups(client), client.group_hash()
    except WdbError as failure:
        result.unanswered[node.name] = str(failure)
        return
    for agent_id in sorted(agents - known):
        result.note("agents", f"{node.name} does not know agent {agent_id}")
    for agent_id in sorted(known - agents):
        result.note("agents", f"{node.name} has agent {agent_id}, the master has not")
    for agent_id in sorted(groups.keys() | theirs.keys()):
        ours, other = groups.get(agent_id, ()), theirs.get(agent_id, ())
        if ours != other:
            result.note("groups", f"{node.name} has agent {agent_id} in {list(other)}, the master in {list(ours)}")
    if their_checksum != checksum:
        result.note("checksum", f"{node.name} has {their_checksum}, the master {checksum}")


def _groups(client: WdbClient) -> dict[int, tuple[str, ...]]:
    """Returns the groups of each agent that has any."""
    return {item["id"]: tuple(item["groups"]) for item in client.agent_groups(condition="all")[0] if item["groups"]}


def _rows(client: WdbClient) -> dict[int, dict[str, Any]]:
    """Returns all agents of a database, with their labels; a column that is NULL becomes empty, or 0."""
    found: dict[int, dict[str, Any]] = {}
    last = 0
    while page := client.page(f"select id, {', '.join(EMPTY)} from agent where id > {last} order by id", 80):
        for row in page:
            last = row.pop("id")
            found[last] = EMPTY | row | {"labels": {}}
    last, seen = 0, ""
    while page := client.page(
        f"select id, key, value from labels where id > {last} or (id = {last} and key > '{seen}') order by id, key", 300
    ):
        for row in page:
            last, seen = row["id"], row["key"]
            if last in found:
                found[last]["labels"][seen] = row["value"]
    return found
