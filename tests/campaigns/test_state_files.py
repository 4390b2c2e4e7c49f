"""Each of a node's own files is damaged in each way while the node is down. The node starts, or says what is wrong and
what to do; it loses nothing that was entrusted to it, and becomes equal."""

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.campaigns.frame import MINUTES, Campaign, last_lines, running
from tests.conftest import MakeRig
from tools.rig import workload
from tools.rig.nodes import Rig, RigError, RigNode

pytestmark = [pytest.mark.stress, pytest.mark.timeout(int(MINUTES * 60) + 1200)]

PLACES = ("queue/cluster", "var/run", "queue/db", "queue/sockets")
DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {}


def damage(function: Callable[[Path, random.Random], None]) -> Callable[[Path, random.Random], None]:
    DAMAGES[function.__name__] = function
    return function


@damage
def truncated(path: Path, rng: random.Random) -> None:
    size = path.stat().st_size
    os.truncate(path, rng.randrange(size) if size else 0)


@damage
def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


@damage
def garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(max(1, path.stat().st_size)))


@damage
def flipped(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"\0")
    for _ in range(8):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


@damage
def directory(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir(mode=0o777)
    (path / "inside").write_text("x")


def kept_files(node: RigNode) -> list[str]:
    """The files that the node left when it was stopped or killed."""
    found = []
    for place in PLACES:
        for path in sorted((node.root / place).rglob("*")):
            if path.is_file() and not path.is_symlink():
                found.append(str(path.relative_to(node.root)))
    return found


def is_refusal(problem: str) -> bool:
    """Returns whether a sentence names the file, so that the operator knows what to do."""
    return ".db" in problem or "is no " in problem or "damaged" in problem or "directory" in problem


def one(campaign: Campaign, rig: Rig, node: RigNode, name: str, how: str) -> str:
    """Returns what is wrong afterwards, else an empty text."""
    path, aside = node.root / name, node.root.parent / "aside"
    owner = path.stat()
    shutil.copytree(node.root / "queue/db", aside, ignore=lambda _, names: [n for n in names if n == "wdb"])
    try:
        DAMAGES[how](path, campaign.rng)
        os.chown(path, owner.st_uid, owner.st_gid)
        try:
            rig.start(node.name)
        except RigError as problem:
            campaign.counts["refused to start"] += 1
            if not is_refusal(str(problem)):
                return f"an unclear refusal: {problem}"
            if path.is_dir():
                shutil.rmtree(path)
            shutil.rmtree(node.root / "queue/db", ignore_errors=True)
            shutil.copytree(aside, node.root / "queue/db")
            for found in (node.root / "queue/db", *(node.root / "queue/db").rglob("*")):
                os.chown(found, owner.st_uid, owner.st_gid)
            rig.start(node.name)
        workload.change(rig.master.root, seed=campaign.rng.randrange(10**9))
        rig.wait_equal(90)
        gone = [process for process, pid in rig.processes(node.name).items() if not pid]
        return f"without {gone}" if gone else ""
    except (RigError, OSError) as problem:
        return f"{problem}\n{last_lines(rig)}"
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@pytest.mark.parametrize("side", ["master", "worker"])
def test_damaged_files(make_rig: MakeRig, capsys: pytest.CaptureFixture[str], side: str) -> None:
    with running(f"state files {side}", capsys) as campaign:
        rig = make_rig(1)
        rig.start()
        rig.wait_equal(60)
        node = rig.master if side == "master" else rig.workers[0]
        rig.stop(node.name)
        cases = [(name, how) for name in kept_files(node) for how in DAMAGES]
        campaign.say(f"{len(cases)} cases: {len(cases) // len(DAMAGES)} files, {len(DAMAGES)} damages")
        campaign.rng.shuffle(cases)
        problems = []
        for name, how in cases:
            if not campaign.goes_on or len(problems) >= 5:
                break
            if not (node.root / name).is_file():
                continue  # another life keeps other files
            campaign.counts["cases"] += 1
            problem = one(campaign, rig, node, name, how)
            if problem:
                campaign.say(f"NOT HEALED {name} {how}: {problem}")
                problems.append(f"{name} {how}: {problem}")
            with contextlib.suppress(RigError):
                rig.stop(node.name)
        assert not problems
