"""Changes of role as work of every_operation.py: whichever operation is the last, nothing that a node had is lost."""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from clusterd import database_copy, left_behind
from clusterd.agent_keys import KEY_FILE
from clusterd.role import LEFT_BEHIND, NodeRole, RoleChange, RoleDamaged, read_role, update_role
from clusterd.rundir import API_FILES, REPLICA_FILE
from clusterd.settings import HaSettings, Settings
from clusterd.store import schema
from clusterd.supervisor import promotion, role_change
from clusterd.users import USERS_FILE
from tests.campaigns.every_operation import Say, Work
from tests.campaigns.hooked import KILL
from tests.supervisor.promotions import agents, begin, finish, keys, make_replica, settings_of, write_keys

DIRECTORIES = ("etc/rules", "etc/shared/default", "logs", "queue/db", "var/run/clusterd", API_FILES)
ROWS = 300
held: list[sqlite3.Connection] = []
"""Never closed: what they wrote stays in the journal beside the database."""


def go_on(root: Path, settings: Settings) -> None:
    """What the supervisor does with the role at a start (role_follow.py)."""
    try:
        given = read_role(str(root))
    except RoleDamaged as failure:
        raise OSError(str(failure)) from None  # the node does not start
    if given is not None and given.change is None:
        role_change.tidy(settings, given)
    elif given is not None and finish(str(root), given, settings)[0]:
        with contextlib.suppress(RoleDamaged):
            role_change.give_up(settings, "it failed")


class Promote(Work):
    """A candidate with agents, keys and users of its own. Nobody can open its database, whose journal has rows that the
    file has not: a program that was killed had locked it."""

    codes = (KILL,)
    fails: ClassVar[bool] = False

    def prepare(self, root: Path) -> None:
        for name in DIRECTORIES:
            (root / name).mkdir(parents=True)
        make_replica(str(root), {1: "a", 2: "b", 3: "c"})
        write_keys(str(root), {1: "a", 2: "b"})
        schema.prepare(str(root), "w1", "4.14.1")
        db = sqlite3.connect(root / schema.DATABASE, isolation_level=None)
        held.append(db)
        db.execute("pragma wal_autocheckpoint = 0").fetchone()
        db.execute("insert into agent (id, name, date_add) values (9, 'own', 1)")
        db.execute("create table late (id integer primary key, text)")
        db.executemany("insert into late (text) values (?)", [("x" * 100,)] * ROWS)
        (root / API_FILES / "users.json").write_text("theirs")
        (root / USERS_FILE).write_text("mine")
        begin(str(root), RoleChange("promote"))

    def _locked(self, is_locked: bool) -> None:
        def locked(path: Path) -> bool:
            raise sqlite3.OperationalError("database is locked")

        vars(promotion)["is_gathered"] = locked if is_locked else database_copy.is_gathered
        if self.fails:
            promotion.take_users = self._no_users

    @staticmethod
    def _no_users(settings: Settings) -> str:
        raise OSError(28, "No space left on device")

    def work(self, root: Path, say: Say) -> None:
        self._locked(True)
        go_on(root, settings_of(str(root)))

    def heal(self, root: Path, say: Say) -> None:
        self._locked(False)
        go_on(root, settings_of(str(root)))

    def wrong(self, root: Path, said: list[Any], healed: list[Any]) -> str:
        left = [str(path) for path in root.rglob("*") if "promot" in path.name]
        if left:
            return f"left {left}"
        given = read_role(str(root))
        users = (root / USERS_FILE).read_text()
        found = keys(str(root)), agents(str(root)), users
        if given is not None:
            if (given.role, given.led, given.change, self.fails) != ("master", 4, None, False):
                return f"role {given}"
            before = (root / LEFT_BEHIND / "4/files" / KEY_FILE).exists()
            return "" if found == (ALL, ALL, "theirs") and before else f"promoted with {found}, keys kept: {before}"
        if found != ({1: "a", 2: "b"}, {9: "own"}, "mine"):
            return f"taken back with {found}"
        return database_wrong(root)


ALL = {1: "a", 2: "b", 3: "c"}


def database_wrong(root: Path) -> str:
    with contextlib.closing(sqlite3.connect(root / schema.DATABASE)) as db:
        found = db.execute("pragma quick_check(1)").fetchone(), db.execute("select count(*) from late").fetchone()
    return "" if found == (("ok",), (ROWS,)) else f"the database of before: {found}"


class TakeBack(Promote):
    """It fails, and is taken back, also when its process was killed and the supervisor lives."""

    fails = True

    def heal(self, root: Path, say: Say) -> None:
        self._locked(False)
        with contextlib.suppress(RoleDamaged):
            role_change.give_up(settings_of(str(root)), "its process ended by signal 9")


class Demote(Work):
    """A former master, with files and an agent that the new one has not; then the new one's files come."""

    codes = (KILL,)
    OLD: ClassVar[dict[str, str]] = {"etc/rules/own.xml": "own", "etc/rules/both.xml": "both", "etc/rules/r.xml": "old"}
    NEW: ClassVar[dict[str, str]] = {"etc/rules/both.xml": "both", "etc/rules/r.xml": "new"}

    def prepare(self, root: Path) -> None:
        for name in DIRECTORIES:
            (root / name).mkdir(parents=True)
        make_replica(str(root), {1: "of before it led"})
        schema.prepare(str(root), "old", "4.14.1", log=True)
        db = schema.connect(str(root))
        held.append(db)
        db.execute("pragma wal_autocheckpoint = 0").fetchone()
        db.execute("insert into agent (id, name, date_add) values (7, 'seven', 1)")
        write_keys(str(root), {7: "seven"})
        for name, text in self.OLD.items():
            (root / name).write_text(text)
        before = update_role(str(root), lambda before: NodeRole(4, "master", 4, "10.0.0.1:1516", "old"))
        begin(str(root), RoleChange("demote", msgspec.to_builtins(before)), role="master", led=4, term=9)

    def _settings(self, root: Path) -> Settings:
        settings = settings_of(str(root))
        own = msgspec.structs.replace(settings.clusterd, ha=HaSettings(replica=True))
        return msgspec.structs.replace(settings, clusterd=own, serves_store=True)

    def work(self, root: Path, say: Say) -> None:
        go_on(root, self._settings(root))
        try:
            given = read_role(str(root))
        except RoleDamaged as failure:
            raise OSError(str(failure)) from None
        if given is None or given.role != "worker":
            return
        for name, text in self.NEW.items():
            (root / name).write_text(text)
        for name in self.OLD.keys() - self.NEW.keys():
            (root / name).unlink(missing_ok=True)
        write_keys(str(root), {1: "a"})
        for term in left_behind.unsorted(str(root)):
            left_behind.sort(str(root), term)

    heal = work

    def wrong(self, root: Path, said: list[Any], healed: list[Any]) -> str:
        kept, given = root / LEFT_BEHIND / "9", read_role(str(root))
        if given is None or given.change is not None or given.term != 9:
            return f"role {given}"
        if agents(str(root)) != {7: "seven"}:
            return f"own agents: {agents(str(root))}"
        if given.role == "master":
            own = {name: (root / name).read_text() for name in self.OLD}
            return "" if given.led < given.term and own == self.OLD else f"not demoted: {given} {own}"
        files = {str(path.relative_to(kept / "files")): path for path in (kept / "files").rglob("*") if path.is_file()}
        texts = {name: path.read_text() for name, path in files.items() if name != KEY_FILE}
        if texts != {"etc/rules/own.xml": "own", "etc/rules/r.xml": "old"} or KEY_FILE not in files:
            return f"kept: {sorted(files)}, {texts}"
        names = [one["name"] for one in json.loads((kept / "agents.json").read_text())]
        copy = agents(str(kept), "global.db")
        replica = agents(str(root), REPLICA_FILE)
        # It may have failed once: then all agents are copied.
        if names != ["seven"] or copy != {7: "seven"} or replica not in ({7: "seven"}, {1: "of before it led"}):
            return f"agents.json {names}, database {copy}, replica {replica}"
        return ""


ROLE_WORKS: dict[str, Callable[[], Work]] = {
    "promote": Promote,
    "take a promotion back": TakeBack,
    "demote": Demote,
}
