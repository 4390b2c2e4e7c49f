"""Every block of commands in README.md and docs/operations runs as it stands on one small rig, or says why not.

A block is what is indented by four spaces. The comment before it names where it runs:

    <!-- run: master -->                   on a node; also w1, w2 and `by hand`, in an empty directory
    <!-- run: w1, exit 0 or 1 -->          the exit codes that are right
    <!-- not run: it needs a manager -->   and why

The blocks of a page are one story, in their order. Paths, ports and addresses of the page become those of the rig.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.system.rest import PASSWORD
from tests.warm import WARM
from tests.warm_programs import programs
from tools.init_node import init_node
from tools.rig.guard import MARK, guarded
from tools.rig.nodes import PROGRAM
from tools.rig.peer import wait_until
from tools.rig.ports import free_port

ROOT = Path(__file__).parents[2]
PAGES = tuple(f"docs/operations/{name}.md" for name in ("day2", "troubleshooting", "api", "journal"))
BY_HAND = "README.md"
ALL = sorted({*PAGES, BY_HAND, *(str(path.relative_to(ROOT)) for path in (ROOT / "docs/operations").glob("*.md"))})
COMMENT = re.compile(r"<!-- (?:run: (?P<where>[\w ]+?)(?:, exit (?P<codes>[\d or]+))?|not run: (?P<why>[^>]+)) -->")
KEY = "c98b62a9b6169ac5f67dae55ae4a9088"
LIMIT_S = 300.0


class Block(NamedTuple):
    line: int
    mark: re.Match[str] | None
    text: str


def blocks(page: str) -> list[Block]:
    found: list[Block] = []
    mark: re.Match[str] | None = None
    lines = [*(ROOT / page).read_text(encoding="utf-8").splitlines(), ""]
    taken: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("    ") or (taken and not line.strip() and number < len(lines)):
            taken.append(line[4:])
            continue
        if taken:
            found.append(Block(number - len(taken), mark, "\n".join(taken).rstrip("\n") + "\n"))
            taken, mark = [], None
        mark = COMMENT.fullmatch(line) or (mark if not line.strip() else None)
    return found


@pytest.mark.parametrize("page", ALL)
def test_every_block_says_where_it_runs_or_why_not(page: str) -> None:
    assert [block.text for block in blocks(page) if block.mark is None] == []


class Place:
    """The rig: directories of a master and two workers, and a directory of programs in which `clusterd` is this
    checkout's (tests/warm_programs.py)."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.port, self.api_port = free_port(), free_port()
        for name in ("bin", "hand"):
            (top / name).mkdir()
        (top / "cluster.key").write_text(KEY + "\n")
        (top / "alice.password").write_text(PASSWORD + "\n")

    def root(self, name: str) -> Path:
        return self.top / name

    def init(self, name: str) -> None:
        is_master = name == "master"
        init_node(
            str(self.root(name)),
            node_type="master" if is_master else "worker",
            name="m" if is_master else name,
            cluster="wazuh",
            key_file=None,
            environment_key=KEY,
            port=self.port if is_master else None,
            bind="127.0.0.1",
            master=None if is_master else f"127.0.0.1:{self.port}",
        )

    def run(self, block: Block) -> None:
        """Runs a block. Raises AssertionError with the whole output."""
        assert block.mark is not None
        where = block.mark["where"]
        codes = {int(code) for code in (block.mark["codes"] or "0").split(" or ")}
        root = self.top / "hand" if where == "by hand" else self.root(where)
        real = {
            "/var/ossec": str(root),
            "/var/backups/clusterd": f"{self.top}/backups",
            "/root/": f"{self.top}/",
            "--master 10.0.0.5": f"--master 127.0.0.1:{self.port}",
            "15160": str(self.port),
            "55000": str(self.api_port),
            "/tmp/": f"{root}/",
        }
        text = re.sub("|".join(map(re.escape, real)), lambda shown: real[shown[0]], block.text)
        environment = {
            **os.environ,
            "PATH": f"{self.top}/bin:{os.environ['PATH']}",
            "CLUSTERD_ROOT": str(root),
            "PYTHONPATH": str(ROOT),
            MARK: str(self.top),
        }
        done = subprocess.run(
            ["bash", "-ec", text],
            cwd=self.top,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode in codes, f"line {block.line}, exit code {done.returncode}:\n{text}\n{done.stdout}"
        assert "Traceback" not in done.stdout, done.stdout

    def clusterd(self, name: str, *arguments: str) -> None:
        self.run(Block(0, COMMENT.fullmatch(f"<!-- run: {name} -->"), f"clusterd {' '.join(arguments)}\n"))

    def stop_all(self) -> None:
        for root in (*self.top.glob("hand/*"), *(self.root(name) for name in ("w2", "w1", "master"))):
            if (root / "etc/ossec.conf").exists():
                with contextlib.suppress(subprocess.SubprocessError):
                    WARM.capture([*PROGRAM, "--root", str(root), "stop"], os.environ, LIMIT_S)


@contextlib.contextmanager
def a_place() -> Iterator[Place]:
    with guarded("docs-") as top:
        made = Place(top)
        with programs(top / "bin", {"clusterd": "tools.cli", "cluster_control": "tools.cluster_control"}):
            try:
                yield made
            finally:
                made.stop_all()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with a_place() as made:
        yield made


@pytest.fixture(scope="module")
def rig(place: Place) -> Place:
    """A master and a worker that is equal."""
    for name in ("master", "w1"):
        place.init(name)
    (place.root("master") / "etc/client.keys").write_text(f"001 web any {'a' * 64}\n")
    (place.root("master") / "etc/rules/local.xml").write_text('<group name="local,"></group>\n')
    place.clusterd("master", "start")
    place.clusterd("w1", "start")
    # The master's store makes this file in the empty group, two seconds after the start.
    wait_until((place.root("master") / "etc/shared/default/merged.mg").exists, LIMIT_S, "the empty group's file")
    place.clusterd("master", "sync", "--wait", "--expect", "1")
    return place


def tree(root: Path) -> dict[str, bytes]:
    """Returns the content of all synchronised files."""
    tops = [root / name for name in ("etc/shared", "etc/rules", "etc/decoders", "etc/lists", "var/multigroups")]
    files = [path for top in tops for path in top.rglob("*") if path.is_file()] + [root / "etc/client.keys"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def steps(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.mark is not None and block.mark["where"]]


@pytest.mark.slow
def test_day_2_with_a_master_that_is_destroyed_twice(rig: Place) -> None:
    """Deletes what the page backs up before the blocks that restore it: all of it must come back, and no file is
    deleted."""
    master, worker = rig.root("master"), rig.root("w1")
    restore, destroyed = None, 0
    rig.clusterd("master", "sync", "--wait", "--expect", "1")  # another page may have started the master just now
    for block in steps("docs/operations/day2.md"):
        if "-xzpf" not in block.text:
            rig.run(block)
            continue
        rig.clusterd("master", "sync", "--wait", "--expect", "1")  # what a block before has just changed
        rig.clusterd("master", "stop")
        shutil.rmtree(master)
        destroyed += 1
        before = tree(worker)
        if restore is not None:
            start = restore.text.index("clusterd check-config")
            rig.run(restore._replace(text=restore.text[:start]))
            assert tree(master) != before  # the backup is older than what the worker has
        rig.run(block)
        assert before == tree(worker) == tree(master)
        if restore is None:
            restore = block
            (master / "etc/rules/new.xml").write_text("<group/>")
            rig.clusterd("master", "sync", "--wait", "--expect", "1")
    assert destroyed == 2
    assert (worker / "etc/rules/new.xml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "day2" not in page])
def test_commands_of_a_page_run(rig: Place, page: str) -> None:
    found = steps(page)
    assert found
    for block in found:
        rig.run(block)


@pytest.mark.slow
def test_nodes_that_the_first_page_makes_by_hand_work() -> None:
    with a_place() as made:
        for block in steps(BY_HAND):
            made.run(block)
