"""What a demoted node keeps, and promotions that were begun long ago."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from clusterd import database_copy, left_behind
from clusterd.net.term_question import TermAnswer
from clusterd.role import LEFT_BEHIND, NodeRole, RoleChange, read_role, standing
from clusterd.rundir import REPLICA_DIR, REPLICA_FILE, run_dir
from clusterd.settings import HaSettings
from clusterd.store import replica_db, schema
from clusterd.supervisor import role_change
from clusterd.wire.terms import TermNote
from tests.base.test_database_copy import late, read_meanwhile
from tests.supervisor.promotions import KEY, agents, begin, finish, make_replica, settings_of, write_keys


@pytest.mark.parametrize("fails", [False, True])
def test_agents_of_a_former_master_are_the_replica_from_which_it_goes_on(
    root: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saves a full copy; where it cannot be made the node is a worker all the same."""
    make_replica(root, {1: "of before it led"})
    schema.prepare(root, "old", "4.14.1", log=True)
    with contextlib.closing(schema.connect(root)) as db:
        db.execute("insert into agent (id, name, date_add) values (7, 'seven', 1)")
    write_keys(root, {7: "seven"})
    if fails:
        monkeypatch.setattr(replica_db, "copy_database", failing(OSError(28, "No space left on device")))
        monkeypatch.setattr(left_behind, "_copy_database", lambda *_: None)
        monkeypatch.setattr(left_behind, "_copy", lambda *_: None)
    settings = settings_of(root)
    own = msgspec.structs.replace(settings.clusterd, ha=HaSettings(replica=True))
    settings = msgspec.structs.replace(settings, clusterd=own, serves_store=True)
    assert finish(root, begin(root, RoleChange("demote")), settings) == (0, "")
    found = read_role(root)
    assert found is not None
    assert (found.role, [line.partition(":")[0] for line in found.steps]) == ("worker", ["kept", "replica"])
    assert ("No space left" in found.steps[-1]) == fails
    assert agents(root, REPLICA_FILE) == ({1: "of before it led"} if fails else {7: "seven"})
    assert [path.name for path in (Path(root) / REPLICA_DIR).iterdir() if "own" in path.name] == []
    if not fails:
        assert (Path(root) / REPLICA_FILE).stat().st_mode & 0o777 == 0o600
        assert agents(root) == {7: "seven"}


@pytest.mark.slow
def test_nothing_is_missed_while_another_program_reads_the_database(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of what is kept beside nor of what the node goes on from."""
    monkeypatch.setattr(database_copy, "WAIT_S", 0.05)
    schema.prepare(root, "old", "4.14.1", log=True)
    with read_meanwhile(Path(root) / schema.DATABASE):
        left_behind.keep(root, settings_of(root).rules, 4)
        assert "goes on" in replica_db.own_as_replica(root)
    assert late(Path(root) / LEFT_BEHIND / "4/global.db") == 3000
    assert late(Path(root) / REPLICA_FILE) == 3000


def test_a_damaged_database_keeps_nobody_from_being_demoted(root: str) -> None:
    """Its file is kept as it is."""
    (Path(root) / schema.DATABASE).write_bytes(b"x" * 9000)
    left_behind.keep(root, settings_of(root).rules, 4)
    kept = Path(root) / LEFT_BEHIND / "4/global.db"
    assert kept.read_bytes() == b"x" * 9000
    assert kept.stat().st_mode & 0o777 == 0o600


def failing(failure: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise failure

    return fail


def test_demoted_node_keeps_what_the_new_master_has_not(root: str) -> None:
    tree = Path(root)
    schema.prepare(root, "old", "4.14.1")
    write_keys(root, {1: "a", 2: "lone"})
    (tree / "etc/rules/same.xml").write_text("same")
    (tree / "etc/rules/changed.xml").write_text("mine")
    (tree / "etc/shared/default/agent.conf").write_text("gone")
    (tree / "etc/rules/editor.swp").write_text("no file of the cluster")
    given = begin(root, RoleChange("demote"))
    assert finish(root, given) == (0, "")
    after = read_role(root)
    assert after is not None
    assert (after.role, after.change) == ("worker", None)
    kept = tree / LEFT_BEHIND / "4"
    assert kept.stat().st_mode & 0o777 == 0o700
    assert left_behind.unsorted(root) == [4]
    assert left_behind.shown(root)[0].files is None
    # A sync has made this node equal to its new master.
    write_keys(root, {1: "a"})
    (tree / "etc/rules/changed.xml").write_text("theirs")
    (tree / "etc/shared/default/agent.conf").unlink()
    found = left_behind.sort(root, 4)
    assert (found.files, found.agents) == (2, 1)
    assert set(found.some) == {"etc/rules/changed.xml", "etc/shared/default/agent.conf", "agent 002 lone"}
    assert (kept / "files/etc/rules/changed.xml").read_text() == "mine"
    assert not (kept / "files/etc/rules/same.xml").exists()
    assert json.loads((kept / "agents.json").read_text()) == [{"id": "002", "name": "lone", "ip": "any"}]
    assert KEY not in (kept / "agents.json").read_text()
    assert (kept / "global.db").stat().st_mode & 0o777 == 0o600
    assert left_behind.unsorted(root) == []
    assert left_behind.shown(root) == [found]


def test_keeping_that_was_killed_is_done_again(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (Path(root) / "etc/rules/a.xml").write_text("a")
    rules = settings_of(root).rules

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(left_behind.FileOps, "syncfs", killed)
        with pytest.raises(KeyboardInterrupt):
            left_behind.keep(root, rules, 2)
    (Path(root) / "etc/rules/a.xml").rename(Path(root) / "etc/rules/b.xml")
    left_behind.keep(root, rules, 2)
    found = [path.name for path in (Path(root) / LEFT_BEHIND / "2/files").rglob("*.xml")]
    assert found == ["b.xml"]


def test_of_databases_of_which_nothing_was_missing_the_newest_is_kept(root: str) -> None:
    tree, rules = Path(root), settings_of(root).rules
    schema.prepare(root, "old", "4.14.1")
    (tree / "etc/rules/a.xml").write_text("a")
    for term in (2, 3, 5, 6):
        if term == 3:
            (tree / "etc/rules/lone.xml").write_text("mine")
        left_behind.keep(root, rules, term)
        (tree / "etc/rules/lone.xml").unlink(missing_ok=True)
        found = left_behind.sort(root, term)
        assert ("has all files and agents" in left_behind.told(found)) == (term != 3)
    assert [one.term for one in left_behind.shown(root)] == [3, 6]
    assert (tree / LEFT_BEHIND / "6/global.db").exists()


@pytest.mark.parametrize("role", ["worker", ""])
def test_a_second_demotion_in_the_same_term_loses_nothing_of_the_first(root: str, role: str) -> None:
    tree = Path(root)
    schema.prepare(root, "old", "4.14.1")
    (tree / "etc/rules/mine.xml").write_text("mine")
    assert finish(root, begin(root, RoleChange("demote"))) == (0, "")
    kept = tree / LEFT_BEHIND / "4"
    database = (kept / "global.db").read_bytes()
    # By now the node equals its new master, which has another file and no agent.
    (tree / "etc/rules/mine.xml").write_text("theirs")
    left_behind.sort(root, 4)
    (tree / "queue/db/global.db").unlink()
    # The command runs again; or role.json was removed in between, and the node was a master for a while.
    (tree / "etc/rules/mine.xml").write_text("later")
    saved = msgspec.to_builtins(NodeRole(4, role=role))  # type: ignore[arg-type]
    assert finish(root, begin(root, RoleChange("demote", saved))) == (0, "")
    first = "" if role else ".1"
    assert (kept / f"files{first}/etc/rules/mine.xml").read_text() == "mine"
    assert (kept / f"global.db{first}").read_bytes() == database
    assert role or (kept / "files/etc/rules/mine.xml").read_text() == "later"
    assert left_behind.unsorted(root) == ([] if role else [4])


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (TermAnswer("known", "", TermNote(0, True, "old")), "old at 10.0.0.1 leads in term 0"),
        (TermAnswer("known", "", TermNote(4, True, "w2")), "w2 at 10.0.0.1 leads in term 4"),
        (TermAnswer("known", "", TermNote(4, False, "w2")), "knows of a master in term 4"),
        (TermAnswer("unknown", "a stock node answers"), "a stock node answers"),
    ],
)
def test_a_promotion_of_long_ago_makes_no_second_master(
    root: str, monkeypatch: pytest.MonkeyPatch, answer: TermAnswer, word: str
) -> None:
    make_replica(root, {1: "a"})
    monkeypatch.setattr(role_change, "ask_term", lambda *_: answer)
    nodes = {"former": ("10.0.0.1",)}
    code, why = finish(root, begin(root, RoleChange("promote"), since=time.time() - 3600, **nodes))
    assert code == 1
    assert word in why
    assert finish(root, begin(root, RoleChange("promote"), since=time.time(), **nodes))[0] == 0, "not asked twice"


def test_a_promotion_of_long_ago_goes_on_while_nobody_leads(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_replica(root, {1: "a"})
    answer = TermAnswer("known", "", TermNote(3, False, "w2"))
    monkeypatch.setattr(role_change, "ask_term", lambda *_: answer)
    assert finish(root, begin(root, RoleChange("promote"), former=("10.0.0.1",))) == (0, "")


def test_the_term_is_taken_back_although_the_reason_cannot_be_written(root: str) -> None:
    before = NodeRole(3, master="10.0.0.1:1516")
    begin(root, RoleChange("promote", msgspec.to_builtins(before)))
    (Path(run_dir(root)) / role_change.FAILED).mkdir(parents=True)
    role_change.give_up(settings_of(root), "the disk is full")
    assert read_role(root) == before


@pytest.mark.parametrize("before", [None, NodeRole(3, "master", 3, "a:1", "a"), NodeRole(4, "master", 4, "a:1", "a")])
def test_a_demotion_that_fails_makes_no_master_again(root: str, before: NodeRole | None) -> None:
    """It was found out that another node leads. `before` None: also where the file was damaged."""
    saved = None if before is None else msgspec.to_builtins(before)
    begin(root, RoleChange("demote", saved), role="" if before is None else "master", led=before.led if before else 0)
    role_change.give_up(settings_of(root), "the disk is full")
    found = read_role(root)
    assert found is not None
    assert (found.term, found.master, found.change) == (4, "10.0.0.2:1516", None)
    assert standing(found, "master").is_deposed
