"""What all campaigns share: how long and from which seed, files that prove that they are whole, writers and readers
that never pause, and what must hold at the end of every one.

CLUSTERD_CAMPAIGN_MINUTES   how long (a campaign with a fixed list of cases ends when it is through, or then)
CLUSTERD_CAMPAIGN_OFFSET    where `file_faults` goes on; printed where its minutes end
CLUSTERD_CAMPAIGN_SEED      replays a run; printed at its beginning
"""

import contextlib
import hashlib
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.rig.nodes import Rig, RigError, RigNode
from tools.rig.peer import wait_until
from tools.rig.wdb_client import WdbClient

MINUTES = float(os.environ.get("CLUSTERD_CAMPAIGN_MINUTES", "1"))
SEED = int(os.environ.get("CLUSTERD_CAMPAIGN_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
EQUAL_S = 180.0
"""How long nodes may take to be equal again after the last fault. Campaigns judge no speed: this only ends one that
hangs."""
PLACE = "etc/lists/campaign"
FILES = 24
REPORT = {
    "agent_ip": "10.0.0.7",
    "connection_status": "active",
    "sync_status": "syncreq",
    "group_config_status": "synced",
}


class Campaign:
    """One run. All random choices come from `rng`; `counts` is printed in the last line."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self.name = name
        self.seed = SEED
        self.rng = random.Random(f"{name}-{SEED}")
        self.counts: Counter[str] = Counter()
        self.say = say
        self._began = time.monotonic()
        say(f"campaign {name}: CLUSTERD_CAMPAIGN_SEED={SEED}, {MINUTES:g} minutes")

    @property
    def goes_on(self) -> bool:
        return time.monotonic() - self._began < MINUTES * 60

    def report(self) -> None:
        found = ", ".join(f"{number} {what}" for what, number in sorted(self.counts.items()))
        self.say(f"campaign {self.name}: {found}, {time.monotonic() - self._began:.0f} s, seed {self.seed}")


@contextlib.contextmanager
def running(name: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Campaign]:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", end="", flush=True)

    campaign = Campaign(name, say)
    try:
        yield campaign
    finally:
        campaign.report()


def sealed(rng: random.Random, size: int) -> bytes:
    """Returns a content that begins with the digest of the rest."""
    body = rng.randbytes(size)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def is_whole(content: bytes) -> bool:
    digest, _, body = content.partition(b"\n")
    return digest == hashlib.sha256(body).hexdigest().encode()


class _Thread:
    """Repeats `step` between enter and exit; its exception is raised at the exit."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def step(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause_s):
                self.step()
        except BaseException as failure:
            self._failure = failure

    def __enter__(self) -> "_Thread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure


class Edits(_Thread):
    """Writes sealed files on the master all the time, each whole, as an editor does; adds and removes some."""

    def __init__(self, campaign: Campaign, root: Path, pause_s: float = 0.05, size: int = 60_000) -> None:
        super().__init__(pause_s)
        self._campaign = campaign
        self._rng = random.Random(f"{campaign.name}-edits-{campaign.seed}")
        self._size = size
        self.use(root)

    def use(self, root: Path) -> None:
        """Edits files of this node from now on."""
        self._place = root / PLACE
        self._place.mkdir(parents=True, exist_ok=True)
        self._place.chmod(0o777)  # nodes that were started as root are another user's

    def step(self) -> None:
        path = self._place / f"file{self._rng.randrange(FILES)}"
        if self._rng.random() < 0.1:
            path.unlink(missing_ok=True)
        else:
            beside = path.with_name(f".{path.name}.swp")
            beside.write_bytes(sealed(self._rng, self._rng.randrange(self._size)))
            beside.chmod(0o660)  # as on a worker, which this node may be later
            beside.replace(path)
        self._campaign.counts["edits"] += 1


SETTLED_NS = 100_000_000


class Changed:
    """Reads files that may have changed since they were read last. One whose inode, size and times are the same has the
    same content, except for a while after a change, in which the next one may have the same time."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, ...]] = {}

    def read(self, path: Path) -> tuple[int, bytes] | None:
        """Returns inode and content; None if it is what it was. Raises OSError."""
        if self._known.get(path) == _facts(path.stat()):
            return None
        with path.open("rb") as file:
            facts, content = _facts(os.fstat(file.fileno())), file.read()
            is_settled = time.time_ns() - facts[-1] > SETTLED_NS and _facts(os.fstat(file.fileno())) == facts
        if is_settled:
            self._known[path] = facts
        return facts[0], content


def _facts(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Readers(_Thread):
    """Reads those files on the workers whenever they have changed, and must never see a part of one."""

    def __init__(self, campaign: Campaign, nodes: list[RigNode], pause_s: float = 0.01) -> None:
        super().__init__(pause_s)
        self._campaign = campaign
        self._nodes = nodes
        self._changed = Changed()
        self._seen: dict[Path, int] = {}
        self.torn: list[str] = []

    def step(self) -> None:
        for node in self._nodes:
            with contextlib.suppress(FileNotFoundError):
                for path in (node.root / PLACE).iterdir():
                    if path.name.startswith("."):
                        continue  # one that is being written beside its place
                    with contextlib.suppress(FileNotFoundError):
                        found = self._changed.read(path)
                        if found is None:
                            continue
                        inode, content = found
                        self._campaign.counts["reads"] += 1
                        if self._seen.get(path) != inode:
                            self._seen[path] = inode
                            self._campaign.counts["contents that arrived"] += 1
                        if not is_whole(content):
                            self.torn.append(f"{node.name} {path.name}: {len(content)} bytes")


def slabs_are_free(rig: Rig) -> bool:
    return all(
        slabs["free"] == slabs["total"] > 0
        for facts in rig.status().values()
        for slabs in facts.get("slabs", {"": {"free": 0, "total": 1}}).values()
    )


def left_behind(rig: Rig) -> list[str]:
    """Returns temporary files in synchronised directories, and files of the spool: none of them may remain."""
    found = []
    for node in rig.nodes:
        for directory in ("etc", "var/multigroups"):
            found += [str(path) for path in (node.root / directory).rglob(".*.tmp*")]
    return found


def must_be_well(rig: Rig, campaign: Campaign, equal_s: float = EQUAL_S) -> None:
    """Checks the state after the last fault: nodes are equal, all memory is free, all processes run; after a stop
    nothing is left."""
    try:
        took = rig.wait_equal(equal_s, pause_s=0.3)
    except RigError as problem:
        raise AssertionError(f"{problem}\n{last_lines(rig)}") from None
    campaign.say(f"equal {took:.1f} s after the last fault")
    wait_until(lambda: slabs_are_free(rig), 60, "every slab is free")
    wait_until(lambda: not left_behind(rig), 60, "no temporary file is left")
    for node in rig.nodes:
        assert all(rig.processes(node.name).values()), node.name
    problems = rig.stop()
    assert not problems
    links = {node.link_pid for node in rig.nodes}
    assert not [process for process in rig.running() if process.pid not in links]
    left = [path for node in rig.nodes for path in (node.root / "var/run").rglob("*") if not path.is_dir()]
    assert not left


def last_lines(rig: Rig, count: int = 15) -> str:
    """Returns the ends of the nodes' logs, to explain a failure."""
    found = []
    for node in rig.nodes:
        with contextlib.suppress(FileNotFoundError):
            lines = (node.root / "logs/cluster.log").read_text(errors="replace").splitlines()
            found += [f"-- {node.name}", *lines[-count:]]
    return "\n".join(found)


def report(worker: RigNode, agent: int, version: str) -> None:
    """Lets the agent report this version to the worker, which has to report it to its master."""
    content = REPORT | {"id": agent, "version": version, "node_name": worker.name}
    with WdbClient(worker.root) as client:
        client.command(f"global update-agent-data {json.dumps(content)}")
