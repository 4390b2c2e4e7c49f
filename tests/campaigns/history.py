"""What must be true of the history of a cluster that loses masters: operations of clients with the times of their
beginning and end, what an observer saw, and what every node holds at the end.

Times are seconds of one monotonic clock. An operation without an answer may have been done or not, at any time after it
began.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import msgspec

Kind = Literal["register", "delete", "assign"]
Outcome = Literal["done", "not sent", "unknown"]


class Operation(msgspec.Struct):
    """A client's request to a node. `agent`: the name; each registration has a name of its own, and only the client
    that registered an agent deletes or assigns it. `id`, `key`: the answer to a registration. `is_second`: asked once
    more, because the first answer was not that it is done; `was_done`: this one was told that the first one was."""

    client: int
    node: str
    kind: Kind
    agent: str
    began: float
    ended: float
    outcome: Outcome
    id: int = 0
    key: str = ""
    group: str = ""
    text: str = ""
    is_second: bool = False
    was_done: bool = False


class Round(msgspec.Struct):
    """A fault. `began`: before it; `calm`: the cluster had recovered. Seconds from `began`: `answered_s` to the next
    answer to a registration that was asked when the fault was whole; `order_s` to the end of an order."""

    kind: str
    leader: str
    began: float
    calm: float
    answered_s: float
    order_s: float = 0.0


class Seen(msgspec.Struct):
    """A look at all candidates at one time: those that may act as master, with their terms. A look that saw the same as
    the one before is only counted (History.looks)."""

    began: float
    ended: float
    leaders: dict[str, int]


class Agent(msgspec.Struct, frozen=True):
    """A row at the end."""

    name: str
    key: str


class Held(msgspec.Struct):
    """What a node holds at the end. `keys`: of client.keys, by id, without removed ones. `agents`: names in the agent
    database (of a candidate: in its replica), by id; None for a node that keeps none. `files`: digest of its tree."""

    keys: dict[int, Agent]
    agents: dict[int, str] | None
    groups_hash: str
    files: str
    groups: dict[str, dict[int, tuple[str, ...]]] = {}
    """The groups of each agent in their order, by database: `own`, on a candidate `replica`, too."""


class Committed(msgspec.Struct, frozen=True):
    """A registration as the journal of the node that committed it has it. A node that is killed may lose some."""

    node: str
    term: int
    agent: str
    id: int


class History(msgspec.Struct):
    operations: list[Operation] = []
    seen: list[Seen] = []
    held: dict[str, Held] = {}
    committed: list[Committed] = []
    rounds: list[Round] = []
    looks: int = 0


def wrong(history: History) -> list[str]:
    """Returns everything that contradicts the promises; empty if nothing does."""
    found = [*_two_masters(history.seen), *_ids(history), *_agents(history), *_groups(history)]
    found += _unequal(history.held)
    return [*found, *_committed(history)]


def _two_masters(seen: list[Seen]) -> Iterator[str]:
    """Two nodes never lead at the same time or in the same term; only greater terms follow a term."""
    names: dict[int, str] = {}
    highest = (0, "")
    for look in sorted(seen, key=lambda one: one.began):
        if len(look.leaders) > 1:
            yield f"at {look.began:.3f} several nodes led: {look.leaders}"
        for name, term in look.leaders.items():
            if names.setdefault(term, name) != name:
                yield f"at {look.began:.3f} {name} led in term {term}, in which {names[term]} had led"
            if term < highest[0]:
                yield f"at {look.began:.3f} {name} led in term {term}, after {highest[1]} had in term {highest[0]}"
            highest = max(highest, (term, name))


def _committed(history: History) -> Iterator[str]:
    """A term belongs to one node, which alone commits in it, as the boards say, too; what was asked after another
    answer had come is committed in no lower term; and what was answered was committed once. Of who asked twice the
    first request may have been carried out by a master that was lost before it answered."""
    owners = {term: name for look in history.seen for name, term in look.leaders.items()}
    places: dict[tuple[str, int], list[Committed]] = {}
    for one in history.committed:
        if owners.setdefault(one.term, one.node) != one.node:
            yield f"{one.node} committed {one.agent} ({one.id}) in term {one.term}, in which {owners[one.term]} led"
        places.setdefault((one.agent, one.id), []).append(one)
    answered = [one for one in history.operations if one.kind == "register" and one.outcome == "done"]
    told = [(one, places[one.agent, one.id]) for one in answered if (one.agent, one.id) in places]
    tries = Counter(one.agent for one in history.operations if one.kind == "register")
    for asked, found in told:
        found.sort(key=lambda one: one.term)
        if len(found) > tries[asked.agent] or len({one.term for one in found}) < len(found):
            where = [(one.node, one.term) for one in found]
            yield f"{asked.agent} ({asked.id}) was committed {len(found)} times: {where}"
    ends = sorted((one.ended, found[-1].term, one.agent) for one, found in told)
    highest, number = (0, ""), 0
    for asked, found in sorted(told, key=lambda pair: pair[0].began):
        while number < len(ends) and ends[number][0] < asked.began:
            highest, number = max(highest, ends[number][1:]), number + 1
        if found[-1].term < highest[0]:
            term, (later, other) = found[-1].term, highest
            yield f"{asked.agent} was committed in term {term}, after {other} had been in term {later}"


def _ids(history: History) -> Iterator[str]:
    """No id is given twice, not even to an agent whose registration was not answered."""
    given: dict[int, str] = {}
    for one in history.operations:
        if one.kind == "register" and one.outcome == "done" and given.setdefault(one.id, one.agent) != one.agent:
            yield f"id {one.id} was given to {given[one.id]} and to {one.agent}"
    for node, held in history.held.items():
        for number, agent in held.keys.items():
            if given.get(number, agent.name) != agent.name:
                yield f"id {number} was given to {given[number]}, and belongs to {agent.name} on {node}"


def _agents(history: History) -> Iterator[str]:
    """An agent that was registered and not deleted exists, with its key; a deleted one does not."""
    deleted = {(one.agent, one.outcome) for one in history.operations if one.kind == "delete"}
    for one in history.operations:
        if one.kind != "register" or one.outcome != "done":
            continue
        is_gone, may_be_gone = (one.agent, "done") in deleted, (one.agent, "unknown") in deleted
        for node, held in history.held.items():
            key = held.keys.get(one.id)
            there = key is not None and key.name == one.agent
            in_database = held.agents is not None and held.agents.get(one.id) == one.agent
            if is_gone and (there or in_database):
                yield f"{one.agent} ({one.id}) was deleted and is on {node}"
            if is_gone or may_be_gone:
                continue
            if not there:
                yield f"{one.agent} ({one.id}) was registered and is not in client.keys of {node}"
            elif key is not None and key.key != one.key:
                yield f"{one.agent} ({one.id}) has another key on {node} than it was told"
            if held.agents is not None and not in_database:
                yield f"{one.agent} ({one.id}) was registered and is not in the agent database of {node}"


def _groups(history: History) -> Iterator[str]:
    """An agent that was assigned to a group and not deleted is in it, in every database; and in the same groups."""
    deleted = {one.agent for one in history.operations if one.kind == "delete" and one.outcome != "not sent"}
    databases = [
        (f"the {name} database of {node}", groups)
        for node, held in history.held.items()
        for name, groups in held.groups.items()
    ]
    for one in history.operations:
        if one.kind == "assign" and one.outcome == "done" and one.agent not in deleted:
            for name, groups in databases:
                if one.group not in (found := groups.get(one.id, ())):
                    yield f"{one.agent} ({one.id}) was assigned to {one.group} and is in {found} in {name}"
    for name, groups in databases[1:]:
        first, expected = databases[0]
        for agent in sorted(groups.keys() | expected.keys()):
            if groups.get(agent) != expected.get(agent):
                yield f"agent {agent} is in {groups.get(agent)} in {name}, in {expected.get(agent)} in {first}"


def _unequal(held: dict[str, Held]) -> Iterator[str]:
    """All nodes hold the same."""
    if not held:
        yield "nobody was looked at"
        return
    first, *others = held
    for node in others:
        for what in ("keys", "groups_hash", "files"):
            if getattr(held[node], what) != getattr(held[first], what):
                yield f"{what} of {node} and {first} differ"
    databases = {node: one.agents for node, one in held.items() if one.agents is not None}
    if len({tuple(sorted(agents.items())) for agents in databases.values()}) > 1:
        yield f"agent databases differ: { {node: len(agents) for node, agents in databases.items()} }"
