"""The checker of histories of a cluster that loses masters: good histories pass, each fault is found."""

from collections.abc import Callable

import pytest

from tests.campaigns.figures import counts, failed_twice, first_answer, share, silence
from tests.campaigns.history import Agent, Committed, Held, History, Operation, Round, Seen, wrong

GROUPS = {1: ("default",), 3: ("default", "web")}


def register(agent: str, number: int, began: float, ended: float = 0.0, node: str = "a") -> Operation:
    return Operation(1, node, "register", agent, began, ended or began + 1, "done", number, f"key of {agent}")


def good() -> History:
    """Three agents are registered, one of them is deleted, one registration gets no answer; the master changes once."""
    keys = {1: Agent("x", "key of x"), 3: Agent("z", "key of z"), 4: Agent("unanswered", "any")}
    names = {number: agent.name for number, agent in keys.items()}
    return History(
        [
            register("x", 1, 1),
            register("y", 2, 2),
            Operation(1, "b", "delete", "y", 4, 5, "done"),
            Operation(2, "b", "register", "unanswered", 5, 9, "unknown"),
            Operation(2, "b", "register", "never", 5, 9, "not sent"),
            register("z", 3, 12, node="b"),
            register("w", 5, 13, node="b"),
            Operation(1, "b", "delete", "w", 14, 15, "unknown"),
            Operation(1, "b", "assign", "z", 14, 15, "done", 3, group="web"),
            Operation(1, "b", "assign", "w", 14, 15, "done", 5, group="web"),
        ],
        [Seen(1, 1, {"a": 1}), Seen(8, 8, {}), Seen(11, 11, {"b": 7}), Seen(20, 20, {"b": 7})],
        {
            "a": Held(dict(keys), dict(names), "h", "f", {"own": dict(GROUPS)}),
            "b": Held(dict(keys), dict(names), "h", "f", {"own": dict(GROUPS), "replica": dict(GROUPS)}),
            "plain": Held(dict(keys), None, "h", "f", {"own": dict(GROUPS)}),
        },
        [
            Committed("a", 1, "x", 1),
            Committed("a", 1, "unanswered", 4),
            Committed("b", 7, "z", 3),
            Committed("b", 7, "unanswered", 4),
        ],
    )


def test_history_in_which_everything_was_kept_passes() -> None:
    assert wrong(good()) == []


def two_at_once(history: History) -> None:
    history.seen.append(Seen(12, 12, {"a": 1, "b": 7}))


def old_master_wakes(history: History) -> None:
    history.seen.append(Seen(12, 12, {"a": 1}))


def term_of_another(history: History) -> None:
    history.seen.append(Seen(30, 30, {"a": 7}))


def lost_key(history: History) -> None:
    for held in history.held.values():
        del held.keys[1]


def lost_on_one_node(history: History) -> None:
    del history.held["plain"].keys[3]


def lost_row(history: History) -> None:
    for held in history.held.values():
        if held.agents is not None:
            del held.agents[3]


def other_key(history: History) -> None:
    for held in history.held.values():
        held.keys[1] = Agent("x", "another")


def deletion_undone(history: History) -> None:
    for held in history.held.values():
        held.keys[2] = Agent("y", "key of y")


def deletion_undone_in_a_database(history: History) -> None:
    for held in history.held.values():
        if held.agents is not None:
            held.agents[2] = "y"


def id_twice(history: History) -> None:
    history.operations.append(register("again", 2, 16))


def id_of_a_deleted_one(history: History) -> None:
    """An agent whose registration was not answered has the id of a deleted agent."""
    for held in history.held.values():
        held.keys[2] = Agent("unanswered", "any")


def unequal_groups(history: History) -> None:
    history.held["b"].groups_hash = "other"


def assignment_lost(history: History) -> None:
    for held in history.held.values():
        held.groups["own"][3] = ("default",)


def assignment_lost_in_a_replica(history: History) -> None:
    history.held["b"].groups["replica"][3] = ("default",)


def unequal_groups_of_an_agent(history: History) -> None:
    history.held["plain"].groups["own"][1] = ("default", "web")


def unequal_files(history: History) -> None:
    history.held["plain"].files = "other"


def unequal_databases(history: History) -> None:
    agents = history.held["b"].agents
    assert agents is not None
    agents[9] = "only here"


def committed_beside_the_leader(history: History) -> None:
    history.committed.append(Committed("a", 7, "w", 5))


def committed_too_late(history: History) -> None:
    history.committed.append(Committed("a", 1, "w", 5))
    history.operations[-5].ended = 12.5


def committed_twice(history: History) -> None:
    history.committed.append(Committed("b", 7, "x", 1))


def nobody_looked(history: History) -> None:
    history.held.clear()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (two_at_once, "several nodes led"),
        (old_master_wakes, "a led in term 1, after b had in term 7"),
        (term_of_another, "a led in term 7, in which b had led"),
        (lost_key, "x (1) was registered and is not in client.keys of a"),
        (lost_on_one_node, "z (3) was registered and is not in client.keys of plain"),
        (lost_row, "z (3) was registered and is not in the agent database of a"),
        (other_key, "x (1) has another key on a than it was told"),
        (deletion_undone, "y (2) was deleted and is on a"),
        (deletion_undone_in_a_database, "y (2) was deleted and is on a"),
        (id_twice, "id 2 was given to y and to again"),
        (id_of_a_deleted_one, "id 2 was given to y, and belongs to unanswered on a"),
        (unequal_groups, "groups_hash of b and a differ"),
        (assignment_lost, "z (3) was assigned to web and is in ('default',) in the own database of a"),
        (assignment_lost_in_a_replica, "z (3) was assigned to web and is in ('default',) in the replica database of b"),
        (unequal_groups_of_an_agent, "agent 1 is in ('default', 'web') in the own database of plain, in ('default',)"),
        (unequal_files, "files of plain and a differ"),
        (unequal_databases, "agent databases differ"),
        (committed_beside_the_leader, "a committed w (5) in term 7, in which b led"),
        (committed_too_late, "w was committed in term 1, after z had been in term 7"),
        (committed_twice, "x (1) was committed 2 times"),
        (nobody_looked, "nobody was looked at"),
    ],
)
def test_each_fault_is_found(spoil: Callable[[History], None], text: str) -> None:
    history = good()
    spoil(history)
    assert any(line.startswith(text) or text in line for line in wrong(history)), wrong(history)


def test_time_to_the_next_answer_counts_what_was_asked_afterwards() -> None:
    history = good()
    assert first_answer(history, 1.5) == 1.5  # y: asked at 2, answered at 3
    assert first_answer(history, 2.5) == 10.5  # not y, which was asked before
    assert first_answer(history, 14) is None
    assert counts(history)["register done"] == 4
    assert [share([4, 1, 3, 2], part) for part in (0.5, 0.99, 0.25)] == [2, 4, 1]
    assert share([5], 0.5) == 5


def test_figures_of_a_round() -> None:
    history = good()
    one = Round("switchover", "a", began=4, calm=12.5, answered_s=9)
    assert silence(history, one) == 9.5  # y: answered at 3, z: at 13, which is after the end
    assert first_answer(history, 4, since=12.5) == 10  # w, not z
    assert failed_twice(history, one) == []
    failed, was_done, later, earlier = (register(name, 9, 4, 6) for name in ("failed", "was done", "later", "earlier"))
    for second in (failed, was_done, later, earlier):
        second.is_second, second.outcome = True, "unknown"
    was_done.was_done, later.ended, earlier.began = True, 13, 3.9
    history.operations += [failed, was_done, later, earlier, register("only once", 9, 4, 6)]
    assert failed_twice(history, one) == [failed]


def test_who_asks_twice_may_be_registered_by_a_master_that_is_lost() -> None:
    history = good()
    history.operations.append(Operation(1, "a", "register", "z", 10, 11, "unknown"))
    history.committed.append(Committed("a", 1, "z", 3))
    assert wrong(history) == []
    history.operations.pop()
    assert "z (3) was committed 2 times" in "".join(wrong(history))
