"""The work of every_operation.py: an application on a worker, a scan and manifest on a master, a registration, a merge
of reports; changes of role: role_works.py."""

import asyncio
import errno
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from clusterd.agent_keys import parse_keys
from clusterd.key_guard import KeyRules
from clusterd.messages.manifest import BuildManifest, PatchManifest, ScanShard
from clusterd.pool import tree
from clusterd.rundir import STATE
from clusterd.settings import ForceRules, Settings
from clusterd.store import follow, follow_groups, follow_keys, report, schema
from clusterd.store.authd import Authd
from clusterd.store.engine import Engine
from clusterd.store.keys import KeyFile, keys_in_use
from clusterd.store.private import PrivateDatabases
from clusterd.store.registry import Registration
from clusterd.store.table import StoreTable
from clusterd.sync.manifest.files import ManifestFiles
from hashing.apply import sweep_temporary
from hashing.atomic import FileOps, is_temporary
from tests.campaigns.every_operation import Say, Work
from tests.campaigns.role_works import ROLE_WORKS
from tests.hashing.packages import RULES, Receiver, build_as_stock, read_tree, step, wire_of, write_tree
from tests.hashing.received import metadata

# ---- application -----------------------------------------------------------------------------------------------------

OLD = {
    "etc/lists/a": b"old" * 90_000,
    "etc/rules/r.xml": b"old rule",
    "etc/shared/g/agent.conf": b"old",
    "etc/shared/gone/x": b"goes",
}
NEW = {
    "etc/lists/a": b"new content" * 30_000,
    "etc/rules/r.xml": b"new rule",
    "etc/shared/g/agent.conf": b"",
    "etc/rules/deep/er/new.xml": b"a new one",
}


Tree = dict[str, bytes]


def receive(tree_root: Path, ops: FileOps, name: str, old: Tree, new: Tree) -> None:
    """Does what a worker does with a package that turns `old` into `new`, however much of it is done already."""
    spool = tree_root.parent / f"spool-{name}"
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir()
    missing = {path: wire_of(path, data) for path, data in new.items() if path not in old}
    shared = {path: wire_of(path, data) for path, data in new.items() if path in old}
    entries = [*new.items(), metadata(missing, shared, sorted(old.keys() - new.keys()))]
    Receiver(tree_root, spool, build_as_stock(entries), ops).run()


class Apply(Work):
    old: ClassVar[Tree] = OLD
    new: ClassVar[Tree] = NEW

    def lasting(self, root: Path) -> Path:
        return root / "tree"

    def ops(self) -> FileOps:
        return FileOps()

    def prepare(self, root: Path) -> None:
        write_tree(root / "tree", self.old)

    def work(self, root: Path, say: Say) -> None:
        receive(root / "tree", self.ops(), "first", self.old, self.new)

    def heal(self, root: Path, say: Say) -> None:
        sweep_temporary(str(root / "tree"), RULES, self.ops())
        say({path: data in (self.old.get(path), self.new.get(path)) for path, data in read_tree(root / "tree").items()})
        receive(root / "tree", self.ops(), "second", self.old, self.new)

    def broken(self, root: Path, said: list[Any]) -> str:
        found = read_tree(root / "tree")
        for path in self.old.keys() | self.new.keys():
            if found.get(path) not in (self.old.get(path), self.new.get(path)):
                return f"{path} is neither old nor new"
        return ""

    def wrong(self, root: Path, said: list[Any], healed: list[Any]) -> str:
        odd = [path for path, is_one in healed[0].items() if not is_one]
        if odd:
            return f"neither old nor new, or left behind, after a start: {odd}"
        found = read_tree(root / "tree")
        if (root / "tree/etc/shared/gone").exists():
            return "an emptied directory stays"
        return "" if found == self.new else f"the next application leaves {sorted(found)}"


class _Mounted(FileOps):
    """`etc/lists/a` is a mount point."""

    def rename(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
        if target == "a":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        super().rename(source, target, dir_fd=dir_fd)


class ApplyInPlace(Apply):
    """Readers may see a half-written file, only here: one that takes several writes. After a start or the next
    application it is old or new. `Apply` does all that this has in common with other files."""

    old: ClassVar[Tree] = {"etc/lists/a": b"old" * 400_000, "etc/rules/r.xml": OLD["etc/rules/r.xml"]}
    new: ClassVar[Tree] = {"etc/lists/a": b"new content" * 100_000, "etc/rules/r.xml": NEW["etc/rules/r.xml"]}

    def ops(self) -> FileOps:
        return _Mounted()

    def broken(self, root: Path, said: list[Any]) -> str:
        return ""


# ---- scan and manifest -----------------------------------------------------------------------------------------------

SHARDS = 2
AT = 1_700_000_000
FILES = {f"etc/rules/{n}.xml": b"rule %d" % n for n in range(4)} | {
    "etc/client.keys": b"001 a any " + b"k" * 64 + b"\n",
    "etc/lists/big": b"x" * 200_000,
    "etc/shared/g/agent.conf": b"<agent_config/>",
}


def look(root: Path, state: Path, *, patch: bool = False) -> tuple[str, list[Any]]:
    """Scans, builds and publishes a manifest as a master does. Returns the content's digest, and what could not be
    read."""
    settings, memory, files = Settings(str(root)), tree.Memory(), ManifestFiles(str(state))
    if patch and files.published_digest:
        paths = ["etc/rules/0.xml", "etc/rules/1.xml", "etc/rules/new.xml"]
        job = PatchManifest(str(root), str(state), files.published_digest, "", SHARDS, paths, ["etc/rules"], 0.5)
        built = tree.patch_manifest(job, settings, memory, step)
        notes = built.notes
    else:
        scanned = [
            tree.scan(ScanShard(str(root), str(state), n, SHARDS), settings, memory, step) for n in range(SHARDS)
        ]
        notes = [note for one in scanned for note in one.notes]
        if any(one.failed for one in scanned):
            return "", notes
        digests = [one.digest for one in scanned]
        build = BuildManifest(str(root), str(state), digests, files.published_digest, 0.5, 0, 0.5)
        built = tree.make_manifest(build, settings, memory, step)
    files.publish(built.root_digest, built.base, 0.0)
    files.note()
    files.tidy(0.0, keeps_noted=True)
    return built.content_digest, notes


class Scan(Work):
    patch = False

    def prepare(self, root: Path) -> None:
        write_tree(root, FILES)
        (root / STATE).mkdir(parents=True)
        look(root, root / STATE)
        self._change(root)

    def _change(self, root: Path) -> None:
        (root / "etc/rules/0.xml").write_bytes(b"changed")
        (root / "etc/rules/1.xml").unlink()
        (root / "etc/rules/new.xml").write_bytes(b"new")

    def work(self, root: Path, say: Say) -> None:
        say(look(root, root / STATE, patch=self.patch))

    def heal(self, root: Path, say: Say) -> None:
        before = ManifestFiles(str(root / STATE)).published_digest
        if before:  # what a start or a job goes on from is whole
            tree.Memory().manifest(str(root / STATE), before)
        for _ in range(2):
            say(look(root, root / STATE))
        fresh = root / "fresh"
        fresh.mkdir()
        say(look(root, fresh))

    def wrong(self, root: Path, said: list[Any], healed: list[Any]) -> str:
        (_, _), (second, notes), (truth, _) = healed
        if notes or second != truth:
            return f"the second round has {second}, not {truth}: {notes}"
        if said and not said[0][1] and said[0][0] not in ("", truth):
            return "a wrong manifest was published, and nothing said"
        return ""


class Patch(Scan):
    patch = True


# ---- registration ----------------------------------------------------------------------------------------------------


def with_store(root: Path, use: Callable[[Engine, PrivateDatabases], Awaitable[None]]) -> None:
    async def main() -> None:
        schema.prepare(str(root), "node", "4.14.1")
        engine = Engine(str(root), readers=1)
        try:
            await use(engine, PrivateDatabases(str(root), "4.14.1"))
        finally:
            engine.close()

    asyncio.run(main())


class Register(Work):
    uses_database = True

    def prepare(self, root: Path) -> None:
        for name in ("etc/shared/default", "queue/db", "queue/diff", STATE):
            (root / name).mkdir(parents=True)
        self._register(root, ["first", "second"], lambda value: None)

    def _register(self, root: Path, names: list[str], say: Say) -> None:
        async def use(engine: Engine, private: PrivateDatabases) -> None:
            file = KeyFile(str(root))
            file.sweep()
            authd = Authd(str(root), StoreTable(engine, private), file, ForceRules, say=lambda level, text: None)
            follower = follow.Follower(
                engine,
                private,
                str(root),
                on_worker=False,
                is_first_life=True,
                read_keys=lambda: keys_in_use(str(root)),
                authd=lambda: file.marks,
                say=lambda level, text: None,
                guard=KeyRules,
            )
            await follower.look()
            running = asyncio.create_task(authd.run())

            async def one(name: str) -> None:
                request = {"function": "add", "arguments": {"name": name, "ip": "any"}}
                answer = msgspec.json.decode(await authd.answer(msgspec.json.encode(request)))
                if answer["error"] == 0:
                    say((answer["data"]["id"], answer["data"]["key"]))

            try:
                await asyncio.gather(*map(one, names))
                await follower.look()
                await follower.look()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            say(await engine.read(lambda db: [row[0] for row in db.execute("select id from agent where id > 0")]))

        # An agent whose key is not in the file is deleted after half a minute; here no request is about to write it.
        follow_groups.SURE_S = follow_keys.YOUNG_S = follow_keys.SURE_S = follow_keys.AGAIN_S = 0.0
        with_store(root, use)

    def work(self, root: Path, say: Say) -> None:
        self._register(root, ["third", "fourth"], say)

    def heal(self, root: Path, say: Say) -> None:
        self._register(root, ["fifth"], say)

    def wrong(self, root: Path, said: list[Any], healed: list[Any]) -> str:
        keys, other = parse_keys((root / "etc/client.keys").read_text())
        held = {key.id: key.key for key in keys if not key.is_removed}
        answered = [one for one in (*said, *healed) if isinstance(one, tuple)]
        lost = [one for one, key in answered if held.get(one) != key]
        if lost or other.bad:
            return f"answered and lost: {lost}, bad lines: {other.bad}"
        if len({one for one, _ in answered}) != len(answered):
            return f"an id was given twice: {answered}"
        if len(healed) != 2:
            return "no registration afterwards"
        rows = {f"{number:03}" for number in healed[-1]}
        left = [name for name in os.listdir(root / "etc") if is_temporary(name)]
        return "" if rows == set(held) and not left else f"file {sorted(held)}, database {sorted(rows)}, left {left}"


# ---- merge -----------------------------------------------------------------------------------------------------------


class Merge(Work):
    """Two reports of five agents each, the second one newer."""

    uses_database = True
    AGENTS = range(1, 6)

    def prepare(self, root: Path) -> None:
        (root / "queue/db").mkdir(parents=True)

        async def use(engine: Engine, private: PrivateDatabases) -> None:
            table = StoreTable(engine, private)
            await table.apply([Registration(n, f"agent{n}", "any", "k" * 64, None, AT) for n in self.AGENTS], [])

        with_store(root, use)

    def _report(self, root: Path, say: Say, versions: list[str]) -> None:
        async def use(engine: Engine, private: PrivateDatabases) -> None:
            for at, version in enumerate(versions, 1):
                elements = [
                    report.Full(
                        n,
                        f"agent{n}",
                        version=version,
                        os_uname="u" * 700,
                        connection_status="active",
                        group_config_status="synced",
                        at=at,
                    )
                    for n in self.AGENTS
                ]
                merged = await engine.write(
                    lambda session, all=elements: report.merge_ours(session, all, "worker", 0)  # type: ignore[misc]
                )
                say((version, merged.errors))
            say(
                await engine.read(
                    lambda db: [row[0] for row in db.execute("select version from agent where id > 0 order by id")]
                )
            )

        with_store(root, use)

    def work(self, root: Path, say: Say) -> None:
        self._report(root, say, ["v1", "v2"])

    def heal(self, root: Path, say: Say) -> None:
        self._report(root, say, [])
        self._report(root, say, ["v3"])

    def wrong(self, root: Path, said: list[Any], healed: list[Any]) -> str:
        done = [one[0] for one in said if isinstance(one, tuple)]
        before = set(healed[0])
        if len(before) != 1:
            return f"half a report: {healed[0]}"
        if done and done[-1] not in before and not (done[-1] == "v1" and before == {"v2"}):
            return f"{done[-1]} was answered, {before} is there"
        return "" if set(healed[-1]) == {"v3"} else f"the next report leaves {healed[-1]}"


WORKS: dict[str, Callable[[], Work]] = {
    "apply": Apply,
    "apply in place": ApplyInPlace,
    "scan": Scan,
    "patch": Patch,
    "register": Register,
    "merge": Merge,
} | ROLE_WORKS
