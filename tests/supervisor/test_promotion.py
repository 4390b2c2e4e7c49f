"""A promotion as a whole: killed or failing at any step, it goes on or leaves everything as it was."""

import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest

from clusterd.role import NodeRole, RoleChange, read_role, update_role
from clusterd.rundir import API_FILES, run_dir
from clusterd.settings import Settings
from clusterd.store import schema
from clusterd.supervisor import promotion, role_change
from clusterd.token_secret import SECRET_FILE
from clusterd.users import USERS_FILE
from tests.supervisor.promotions import KEY, agents, begin, finish, keys, make_replica, settings_of, write_keys


def test_promotion_goes_on_where_it_was_killed(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_replica(root, {1: "a"})
    write_keys(root, {1: "a"})
    given = begin(root, RoleChange("promote"))

    class Killed(BaseException):
        pass

    def killed(settings: Settings) -> str:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "take_users", killed)
        with pytest.raises(Killed):
            finish(root, given)
    found = read_role(root)
    assert found is not None
    assert found.change is not None
    assert [line.partition(":")[0] for line in found.change.done] == ["kept", "agents", "keys"]
    monkeypatch.setattr(promotion, "take_replica", killed)
    assert finish(root, found) == (0, ""), "what is done is not done again"
    after = read_role(root)
    assert after is not None
    assert (after.role, after.led, after.term, after.change) == ("master", 4, 4, None)


@pytest.mark.parametrize("before", [None, NodeRole(3, master="10.0.0.1:1516")])
def test_what_fails_is_taken_back(root: str, before: NodeRole | None) -> None:
    saved = None if before is None else msgspec.to_builtins(before)
    given = begin(root, RoleChange("promote", saved))
    code, why = finish(root, given)
    assert code == 1
    assert "no replica" in why
    role_change.give_up(settings_of(root), why)
    assert read_role(root) == before
    assert "no replica" in (Path(run_dir(root)) / role_change.FAILED).read_text()


def before_promotion(root: str) -> dict[str, bytes]:
    """Returns all files that a promotion may replace, and those that it may leave beside them."""
    found = {}
    for top in ("etc", "queue/db", str(Path(USERS_FILE).parent), str(Path(SECRET_FILE).parent)):
        for path in (Path(root) / top).rglob("*"):
            if path.is_file() and "replica" not in str(path) and path.name != "role.json":
                found[str(path)] = path.read_bytes()
    return found


@pytest.fixture
def candidate(root: str) -> str:
    """A candidate with agents, keys and users of its own, and a replica with others."""
    make_replica(root, {1: "a", 2: "b", 3: "c"})
    write_keys(root, {1: "a", 2: "b"})
    schema.prepare(root, "w1", "4.14.1")
    with contextlib.closing(sqlite3.connect(Path(root) / schema.DATABASE)) as db:
        db.execute("insert into agent (id, name, date_add) values (9, 'own', 1)")
        db.commit()
        db.execute("pragma wal_checkpoint(truncate)").fetchone()
    for name in ("users.json", "token.key"):
        (Path(root) / API_FILES).mkdir(exist_ok=True)
        (Path(root) / API_FILES / name).write_text(f"theirs {name}")
    (Path(root) / USERS_FILE).write_text("mine")
    return root


@pytest.mark.parametrize("fails", ["take_keys", "take_users", "the note", "the end"])
def test_a_step_that_fails_leaves_every_file_as_it_was(
    candidate: str, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    root, full = candidate, OSError(28, "No space left on device")
    before = before_promotion(root)
    given = begin(root, RoleChange("promote"))

    def fail(*_: object) -> str:
        raise full

    if fails.startswith("take"):
        monkeypatch.setattr(promotion, fails, fail)
    elif fails == "the end":
        monkeypatch.setattr(role_change, "_ended", fail)
    else:
        real = role_change._note
        monkeypatch.setattr(role_change, "_note", lambda *args: real(*args) if "agents" not in args[1] else fail())
    code, why = finish(root, given)
    assert (code, "No space left" in why) == (1, True)
    assert agents(root) == {1: "a", 2: "b", 3: "c"}, "it was exchanged"
    monkeypatch.undo()
    role_change.give_up(settings_of(root), why)
    assert before_promotion(root) == before
    assert read_role(root) is None
    assert agents(root) == {9: "own"}


def test_a_promotion_leaves_nothing_beside_the_files(candidate: str) -> None:
    names = set(before_promotion(candidate)) | {str(Path(candidate) / SECRET_FILE)}
    assert finish(candidate, begin(candidate, RoleChange("promote"))) == (0, "")
    assert {one for one in before_promotion(candidate) if one.endswith("-promotion")} == set()
    assert names <= set(before_promotion(candidate))
    assert agents(candidate) == {1: "a", 2: "b", 3: "c"}


def test_a_kill_after_files_were_put_back_restarts_the_change(candidate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = candidate
    given = begin(root, RoleChange("promote"))
    monkeypatch.setattr(promotion, "take_users", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finish(root, given)
    promotion.put_back(settings_of(root))
    assert agents(root) == {9: "own"}
    monkeypatch.undo()
    found = read_role(root)
    assert found is not None
    assert finish(root, found) == (0, "")
    assert agents(root) == {1: "a", 2: "b", 3: "c"}
    assert keys(root) == {1: "a", 2: "b", 3: "c"}
    after = read_role(root)
    assert after is not None
    assert [line.partition(":")[0] for line in after.steps] == ["kept", "agents", "keys", "users"]


@pytest.mark.parametrize("is_master", [True, False])
def test_what_a_kill_behind_the_end_leaves_is_tidied_at_the_next_start(candidate: str, is_master: bool) -> None:
    root = candidate
    settings = settings_of(root)
    before = before_promotion(root)
    promotion.keep_before(settings)
    promotion.take_replica(root, settings)
    role_change.tidy(settings, NodeRole(4, "master", 4, "a:1") if is_master else None)
    assert agents(root) == ({1: "a", 2: "b", 3: "c"} if is_master else {9: "own"})
    assert set(before_promotion(root)) == set(before)


def test_a_former_master_keeps_its_agents_though_its_promotion_was_not_tidied(candidate: str) -> None:
    """The node was killed after the end of its promotion, and deposed before its next start."""
    promotion.keep_before(settings_of(candidate))
    promotion.take_replica(candidate)
    deposed = NodeRole(5, "master", 4, "b:1")
    role_change.tidy(settings_of(candidate).with_role(deposed), deposed)
    assert agents(candidate) == {1: "a", 2: "b", 3: "c"}


def test_a_change_that_was_done_when_its_process_was_killed_stays(
    candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = begin(candidate, RoleChange("promote"))
    monkeypatch.setattr(promotion, "forget_before", lambda settings: 1 / 0 if read_role(candidate).led else None)  # type: ignore[union-attr]
    with pytest.raises(ZeroDivisionError):
        finish(candidate, given)
    monkeypatch.undo()
    role_change.give_up(settings_of(candidate), "its process ended by signal 9")
    after = read_role(candidate)
    assert after is not None
    assert (after.role, after.led) == ("master", given.term)
    assert agents(candidate) == {1: "a", 2: "b", 3: "c"}, "the master of this term with the agents of before"
    assert not [one for one in before_promotion(candidate) if one.endswith("-promotion")]


def test_what_a_promotion_has_left_is_not_put_back_after_a_demotion(
    candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(settings: Settings) -> None:
        if getattr(read_role(candidate), "led", 0):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(promotion, "forget_before", full)
    assert finish(candidate, begin(candidate, RoleChange("promote"))) == (0, "")
    monkeypatch.undo()
    promoted = read_role(candidate)
    assert promoted is not None
    change = RoleChange("demote", msgspec.to_builtins(promoted))
    demoting = msgspec.structs.replace(promoted, term=9, master="b:1", change=change)
    update_role(candidate, lambda before: demoting)
    assert finish(candidate, demoting) == (0, "")
    (Path(candidate) / "etc/client.keys").write_text(f"007 new any {KEY}\n")  # it has synced with the new master
    role_change.tidy(settings_of(candidate), read_role(candidate))
    assert keys(candidate) == {7: "new"}
    assert agents(candidate) == {1: "a", 2: "b", 3: "c"}


def test_an_incomplete_copy_replaces_nothing(candidate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without links, and a full disk."""
    before = before_promotion(candidate)

    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        raise OSError(28, "No space left on device")

    given = begin(candidate, RoleChange("promote"))
    monkeypatch.setattr(promotion.os, "link", no_link)
    monkeypatch.setattr(promotion.shutil, "copy2", half)
    code, why = finish(candidate, given)
    assert code == 1
    monkeypatch.undo()
    role_change.give_up(settings_of(candidate), why)
    assert before_promotion(candidate) == before


def test_a_full_disk_gets_back_the_room_of_what_was_copied_in_vain(
    candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it not even the old role could be written again."""
    before = before_promotion(candidate)
    real = promotion.shutil.copyfile

    def full(source: Path, target: Path) -> None:
        real(source, target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(promotion.shutil, "copyfile", full)
    code, why = finish(candidate, begin(candidate, RoleChange("promote")))
    assert (code, "No space left" in why) == (1, True)
    role_change.give_up(settings_of(candidate), why)
    assert before_promotion(candidate) == before


def test_own_database_that_is_damaged_is_replaced_all_the_same(candidate: str) -> None:
    """The check of SQLite says so of some damage, and raises for other."""
    with contextlib.closing(sqlite3.connect(Path(candidate) / schema.DATABASE)) as db:
        db.execute("pragma writable_schema = on")
        db.execute("delete from sqlite_schema where type = 'index' and sql is null")
        db.commit()
    with contextlib.closing(sqlite3.connect(Path(candidate) / schema.DATABASE)) as db:
        assert db.execute("pragma quick_check(1)").fetchone() != ("ok",)
    assert finish(candidate, begin(candidate, RoleChange("promote"))) == (0, "")
    assert agents(candidate) == {1: "a", 2: "b", 3: "c"}
