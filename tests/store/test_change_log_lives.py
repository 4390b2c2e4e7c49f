"""Positions in the change log, its lives, and what two logs have in common."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from clusterd.store import agents, change_log, schema
from clusterd.store.change_log import AGENT, LogLife, joined
from clusterd.store.units import Unit, read_units
from tests.store.change_pair import Pair, add, as_bytes, catch_up, made


def begin(db: sqlite3.Connection) -> str:
    """The next life of the log; its epoch."""
    with db:
        db.execute("begin")
        change_log.begin_log(db)
    return str(change_log.mark(db, change_log.EPOCH))


def test_unit_that_changes_again_has_a_new_position_and_its_old_one_is_not_given_again(pair: Pair) -> None:
    seen = set()
    for _ in range(3):
        pair.change(lambda s: s.db.execute("insert or replace into agent (id, name, date_add) values (1, 'a', 1)"))
        last = change_log.head(pair.master)
        assert last not in seen
        seen.add(last)
        (found,) = [row for row in change_log.changed_since(pair.master, 0, 9) if row[1] == AGENT]
        assert found == (last, AGENT, 1)


def test_deleted_unit_is_sent_as_empty(pair: Pair) -> None:
    pair.change(add(1))
    pair.change(lambda s: agents.delete_agent(s, 1))
    with as_bytes(pair.master):
        (unit,) = read_units(pair.master, [(AGENT, 1)])
    assert unit == Unit(AGENT, 1)
    assert unit.is_gone


def test_positions_of_another_life_or_beyond_the_end_are_unknown(pair: Pair) -> None:
    pair.change(add(1))
    last = change_log.head(pair.master)
    assert change_log.is_known(pair.master, pair.epoch, last)
    assert not change_log.is_known(pair.master, "another", last)
    assert not change_log.is_known(pair.master, pair.epoch, last + 1)
    epoch = begin(pair.master)
    assert not change_log.is_known(pair.master, pair.epoch, last), "a power failure may have taken it back"
    assert change_log.is_known(pair.master, epoch, last)
    assert change_log.is_known(pair.master, epoch, 0)
    assert not change_log.is_known(pair.master, epoch, last + 1)


def test_a_start_of_the_store_is_no_change_and_says_what_the_life_before_had(pair: Pair) -> None:
    pair.change(add(1))
    last = change_log.head(pair.master)
    epochs = [begin(pair.master) for _ in range(3)]
    assert change_log.lives(pair.master) == [LogLife(epoch, last) for epoch in (pair.epoch, *epochs[:-1])]
    assert (change_log.head(pair.master), change_log.earlier(pair.master)) == (last, last)


def test_only_the_last_lives_are_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "KEPT_LIVES", 2)
    epochs = [begin(pair.master) for _ in range(4)]
    assert [life.epoch for life in change_log.lives(pair.master)] == epochs[1:-1]


def test_a_log_of_an_earlier_version_goes_on_behind_its_gaps(pair: Pair) -> None:
    pair.change(add(1))
    last = change_log.head(pair.master)
    pair.master.execute("insert into clusterd_change values (?, 0, ?)", (last + 1_000_000, last))
    begin(pair.master)
    assert change_log.lives(pair.master) == [LogLife(pair.epoch, last)]
    pair.change(add(2))
    assert change_log.changed_since(pair.master, last, 9) == [(last + 1, AGENT, 2)]


OPEN = 0


@pytest.mark.parametrize(
    ("own", "theirs", "found"),
    [
        # The new leader had it all, more, or less.
        ([("a", 7)], [("a", 7), ("b", OPEN)], (7, ())),
        ([("a", 5)], [("a", 7), ("b", OPEN)], (5, ())),
        ([("a", 9)], [("a", 7), ("b", OPEN)], (7, ())),
        # Two changes of leader were slept over; nothing of the one in between was seen.
        ([("a", 5)], [("a", 7), ("b", 30), ("c", OPEN)], (5, ())),
        ([("a", 9)], [("a", 7), ("b", 30), ("c", OPEN)], (7, ())),
        # Both have left it on their own ways.
        ([("a", 7), ("b", 20)], [("a", 6), ("c", OPEN)], (6, ())),
        ([("a", 7), ("b", 20)], [("a", 9), ("c", OPEN)], (7, ())),
        # A backup from the middle of the life that the replica follows still.
        ([("z", 2), ("a", 9)], [("z", 2), ("a", 4), ("c", OPEN)], (4, ())),
        # A replica of the later life, and the master of the earlier one is back with nothing new.
        ([("a", 7), ("b", 20)], [("a", OPEN)], (7, ())),
        # Nothing in common: a new database; lives that were forgotten.
        ([("a", 7)], [("b", OPEN)], None),
        ([("a", 7)], [("b", 30), ("c", OPEN)], None),
        # Moments were moved with the change of machine, once or twice, and on two ways.
        ([("a", 5)], [("a", 7, -3), ("b", OPEN)], (5, (-3,))),
        ([("a", 5)], [("a", 7, -3), ("b", 9), ("c", 20, 8), ("d", OPEN)], (5, (-3, 8))),
        ([("z", 1, 4), ("a", 5)], [("z", 1, 4), ("a", 7, -3), ("b", OPEN)], (5, (-3,))),
        ([("a", 5, 6), ("x", 9)], [("a", 7, -3), ("b", OPEN)], None),
    ],
)
def test_what_a_replica_has_in_common_with_a_log(
    own: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]], found: tuple[int, tuple[int, ...]] | None
) -> None:
    assert joined([LogLife(*one) for one in own], [LogLife(*one) for one in theirs]) == found


def test_deletions_that_a_life_has_forgotten_are_said_and_a_copy_goes_on_behind_them(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_log, "KEPT_DELETIONS", 2)
    for one in range(1, 6):
        pair.change(add(one))
    earlier = change_log.head(pair.master)
    for one in range(1, 5):
        pair.change(lambda s, one=one: agents.delete_agent(s, one))
    late = change_log.head(pair.master)
    epoch = begin(pair.master)
    assert earlier < change_log.floor(pair.master) <= late, "whoever follows an earlier life is not told less"
    assert all(change_log.is_known(pair.master, epoch, position) for position in range(late + 1))
    units = [(kind, one) for _, kind, one in change_log.changed_since(pair.master, 0, 99)]
    assert sorted(units) == [(AGENT, 3), (AGENT, 4), (AGENT, 5)], "the last deletions, and what there is"


def test_highest_id_survives_its_agent(pair: Pair) -> None:
    pair.change(add(70))
    pair.change(add(3))
    pair.change(lambda s: agents.delete_agent(s, 70))
    pair.change(lambda s: agents.insert_agent(s, agents.NewAgentRow(2**40, "no id of authd's", 1)))
    assert change_log.mark(pair.master, change_log.GREATEST) == 70


def test_boot_of_the_machine_moves_all_moments_and_the_log_says_how_far(pair: Pair) -> None:
    pair.change(add(70))
    pair.change(lambda s: s.stamp(70))
    last = change_log.head(pair.master)
    (before,) = pair.master.execute("select at from clusterd_event").fetchone()
    pair.master.execute("update clusterd_seen set name = 'another boot' where kind = 'boot'")
    pair.master.execute("update clusterd_seen set name = name - 7000000 where kind = 'wall'")
    schema.make(pair.master, "memory")
    (after,) = pair.master.execute("select at from clusterd_event").fetchone()
    begin(pair.master)
    (life,) = change_log.lives(pair.master)
    assert (life.epoch, life.ended) == (pair.epoch, last)
    assert after == min(before + life.moved, -1) < 0
    begin(pair.master)
    assert change_log.lives(pair.master)[-1].moved == 0, "said once"


def test_moments_that_were_moved_twice_or_dropped_make_a_log_of_its_own(pair: Pair) -> None:
    pair.change(add(70))
    for boots in (["one", "two"], [""]):
        for boot in boots:
            pair.master.execute("update clusterd_seen set name = ? where kind = 'boot'", (boot,))
            if not boot:
                pair.master.execute("delete from clusterd_seen where kind = 'wall'")
            schema.make(pair.master, "memory")
        begin(pair.master)
        assert change_log.lives(pair.master) == []
        begin(pair.master)


def test_log_that_is_turned_off_leaves_nothing_and_a_new_one_has_everything(pair: Pair) -> None:
    plain = made()
    pair.change(add(1))
    change_log.end_log(pair.master)
    names = "select type, name from sqlite_master order by 1, 2"
    assert pair.master.execute(names).fetchall() == plain.execute(names).fetchall()
    plain.close()
    pair.change(add(2))
    change_log.begin_log(pair.master)
    assert change_log.mark(pair.master, change_log.EPOCH) != pair.epoch
    assert change_log.mark(pair.master, change_log.GREATEST) == 2
    catch_up(pair)


def test_file_has_a_log_only_while_it_is_wanted(tmp_path: Path) -> None:
    def is_on() -> bool:
        db = schema.connect(str(tmp_path))
        found = change_log.is_on(db)
        db.close()
        return found

    found = []
    for log in (False, True, True, False):
        schema.prepare(str(tmp_path), "m", "4.14.1", log=log)
        found.append(is_on())
    assert found == [False, True, True, False]
