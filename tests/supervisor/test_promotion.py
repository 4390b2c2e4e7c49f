"""The steps of a change of role: what a candidate keeps becomes its own, what a former master had is kept."""

import contextlib
import json
import sqlite3
import time
from pathlib import Path

import msgspec
import pytest

from clusterd import left_behind
from clusterd.logs import Log
from clusterd.net.term_question import TermAnswer
from clusterd.role import LEFT_BEHIND, NodeRole, RoleChange, read_role, update_role
from clusterd.rundir import API_FILES, REPLICA_DIR, REPLICA_FILE, run_dir
from clusterd.settings import ClusterBlock, Settings
from clusterd.store import schema
from clusterd.store.change_log import GREATEST, REPLICA_MARKS, set_mark
from clusterd.store.keys import KeyFile
from clusterd.supervisor import promotion, role_change
from clusterd.token_secret import SECRET_FILE
from clusterd.users import USERS_FILE
from clusterd.wire.terms import TermNote

KEY = "a" * 64


@pytest.fixture
def root(tmp_path: Path) -> str:
    for directory in ("etc/rules", "etc/shared/default", "logs", "queue/db", "var/run/clusterd", REPLICA_DIR):
        (tmp_path / directory).mkdir(parents=True)
    return str(tmp_path)


def settings_of(root: str) -> Settings:
    return Settings(root, cluster=ClusterBlock(node_type="worker", node_name="w1"))


def make_replica(root: str, agents: dict[int, str], greatest: int = 0, keyless: tuple[int, ...] = ()) -> None:
    """A whole replica with these agents, by id and name."""
    (Path(root) / REPLICA_FILE).unlink(missing_ok=True)
    db = schema.connect(root, name=REPLICA_FILE)
    with contextlib.closing(db):
        db.execute("pragma journal_mode = wal").fetchone()
        schema.make(db, REPLICA_FILE, is_copy=True)
        db.execute(f"create table {REPLICA_MARKS} (name text primary key, value) without rowid")
        set_mark(db, GREATEST, greatest or max(agents, default=0), REPLICA_MARKS)
        for one, name in agents.items():
            db.execute(
                "insert into agent (id, name, register_ip, internal_key, date_add) values (?, ?, 'any', ?, 1)",
                (one, name, KEY),
            )
            if one not in keyless:
                db.execute("insert into clusterd_seen (kind, name) values ('key', ?)", (str(one),))


def write_keys(root: str, agents: dict[int, str]) -> None:
    lines = [f"{one:03d} {name} any {KEY}\n" for one, name in agents.items()]
    (Path(root) / "etc/client.keys").write_text("".join(lines))


def keys(root: str) -> dict[int, str]:
    file = KeyFile(root)
    file.refresh()
    return {key.number: key.name for key in file.table}


def agents(root: str, name: str = schema.DATABASE) -> dict[int, str]:
    with contextlib.closing(sqlite3.connect(Path(root) / name)) as db:
        return dict(db.execute("select id, name from agent where id > 0"))


def test_replica_becomes_the_agent_database_and_stays_where_it_is(root: str) -> None:
    make_replica(root, {1: "a", 2: "b"})
    schema.prepare(root, "w1", "4.14.1")
    with contextlib.closing(sqlite3.connect(Path(root) / schema.DATABASE)) as db:
        db.execute("insert into agent (id, name, date_add) values (9, 'own', 1)")
        db.commit()
        assert promotion.take_replica(root).startswith("2 of the replica"), "also with a journal beside the old file"
    assert agents(root) == {1: "a", 2: "b"} == agents(root, REPLICA_FILE)
    assert promotion.take_replica(root), "again, after a kill"
    assert not list((Path(root) / "queue/db").glob("*-wal"))
    schema.prepare(root, "w1", "4.14.1")
    assert agents(root) == {1: "a", 2: "b"}


def test_no_replica_and_a_damaged_one_are_refused(root: str) -> None:
    with pytest.raises(promotion.NotPromoted, match="no replica"):
        promotion.take_replica(root)
    (Path(root) / REPLICA_FILE).write_bytes(b"x" * 9000)
    with pytest.raises((promotion.NotPromoted, sqlite3.DatabaseError)):
        promotion.take_replica(root)
    assert not (Path(root) / schema.DATABASE).exists()


def test_keys_follow_the_replica_and_newer_ones_stay(root: str) -> None:
    make_replica(root, {1: "a", 2: "b", 3: "c"}, greatest=5)
    promotion.take_replica(root)
    # 2 and 3 have not come with the files yet; 4 was removed; 6 came with the files and not with the replica.
    write_keys(root, {1: "a", 4: "gone", 6: "new"})
    assert promotion.take_keys(settings_of(root), 7) == "2 added to etc/client.keys, 1 removed; ids go on after 6"
    assert keys(root) == {1: "a", 2: "b", 3: "c", 6: "new"}
    before = (Path(root) / LEFT_BEHIND / "7/files/etc/client.keys").read_text()
    assert "gone" in before
    assert promotion.take_keys(settings_of(root), 7).startswith("0 added")
    assert (Path(root) / LEFT_BEHIND / "7/files/etc/client.keys").read_text() == before


def test_an_agent_whose_key_was_removed_is_not_brought_back(root: str) -> None:
    make_replica(root, {1: "a", 2: "b"}, keyless=(2,))
    promotion.take_replica(root)
    write_keys(root, {1: "a"})
    promotion.take_keys(settings_of(root), 1)
    assert keys(root) == {1: "a"}


def test_replica_that_does_not_fit_the_keys_takes_no_place(root: str) -> None:
    make_replica(root, {1: "a"}, greatest=9)
    schema.prepare(root, "w1", "4.14.1")
    write_keys(root, {one: f"agent{one}" for one in range(1, 6)})
    with contextlib.closing(sqlite3.connect(Path(root) / schema.DATABASE)) as db:
        db.execute("insert into agent (id, name, date_add) values (9, 'own', 1)")
        db.commit()
    code, why = finish(root, begin(root, RoleChange("promote")))
    assert (code, "lacks 4 of the 5" in why) == (1, True)
    assert agents(root) == {9: "own"}, "the worker that it was"


def test_replica_that_lacks_most_agents_removes_no_keys(root: str) -> None:
    make_replica(root, {1: "a"}, greatest=9)
    promotion.take_replica(root)
    write_keys(root, {one: f"agent{one}" for one in range(1, 6)})
    with pytest.raises(promotion.NotPromoted, match="lacks 4 of the 5"):
        promotion.take_keys(settings_of(root), 1)
    assert len(keys(root)) == 5


def test_logins_are_taken_and_a_certificate_only_where_there_is_none(root: str) -> None:
    api = Path(root) / API_FILES
    api.mkdir()
    for name in ("users.json", "token.key", "certificate.pem", "key.pem"):
        (api / name).write_text(f"theirs {name}")
    settings = settings_of(root)
    own = Path(root) / settings.clusterd.api.cert
    own.write_text("mine")
    (Path(root) / USERS_FILE).write_text("mine")
    assert promotion.take_users(settings) == "key.pem, token.key, users.json of the REST API"
    assert own.read_text() == "mine"
    assert (Path(root) / USERS_FILE).read_text() == "theirs users.json"
    assert (Path(root) / SECRET_FILE).stat().st_mode & 0o777 == 0o600


# ---- the change as a whole -------------------------------------------------------------------------------------------


def begin(root: str, change: RoleChange, **more: object) -> NodeRole:
    given = msgspec.convert({"term": 4, "master": "10.0.0.2:1516", "master_name": "w1"} | more, NodeRole)
    return update_role(root, lambda before: msgspec.structs.replace(given, change=change))


def finish(root: str, given: NodeRole) -> tuple[int, str]:
    reason = Path(root) / "reason"
    log = Log(f"{root}/logs/cluster.log", 1)
    code = role_change.run(settings_of(root).with_role(given), given, log, str(reason))
    return code, reason.read_text() if reason.exists() else ""


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
    """All files that a promotion may replace, and what may be left beside them."""
    found = {}
    for top in ("etc", "queue/db", str(Path(USERS_FILE).parent), str(Path(SECRET_FILE).parent)):
        for path in (Path(root) / top).rglob("*"):
            if path.is_file() and "replica" not in str(path) and path.name != "role.json":
                found[str(path)] = path.read_bytes()
    return found


@pytest.fixture
def candidate(root: str) -> str:
    """It has agents, keys and users of its own, and a replica with others."""
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


def test_a_kill_after_files_were_put_back_begins_the_change_anew(
    candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    """Killed behind the end of its promotion, and deposed before it was started again."""
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


def test_a_copy_that_is_not_whole_takes_no_place(candidate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without links, whose disk is full."""
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


# ---- what is left behind ---------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("role", ["worker", ""])
def test_a_second_demotion_in_the_same_term_loses_nothing_of_the_first(root: str, role: str) -> None:
    tree = Path(root)
    schema.prepare(root, "old", "4.14.1")
    (tree / "etc/rules/mine.xml").write_text("mine")
    assert finish(root, begin(root, RoleChange("demote"))) == (0, "")
    kept = tree / LEFT_BEHIND / "4"
    database = (kept / "global.db").read_bytes()
    # It equals its new master by now, which has another file and no agent.
    (tree / "etc/rules/mine.xml").write_text("theirs")
    left_behind.sort(root, 4)
    (tree / "queue/db/global.db").unlink()
    # Asked again; or its role.json was removed in between, and it was a master for a while.
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
