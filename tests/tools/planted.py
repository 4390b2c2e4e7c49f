"""A cluster in which tests plant faults, one after the other, and what `clusterd doctor` shows of them."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from click.testing import CliRunner

from tests.conftest import rigs
from tests.net.harness import wait_until
from tests.warm import Warm
from tools.cli import cluster as command
from tools.doctor.finding import Finding
from tools.rig.nodes import Rig, RigNode
from tools.rig.ports import free_port

IS_ROOT = os.geteuid() == 0
OWNER = "nobody"
"""Of all nodes where root runs the tests: whoever is root itself lacks no right."""
NAMESPACES = ("unshare", "--user", "--mount", "--propagation", "private")
"""Where mounts, and the limits of file events, are the cluster's own."""
OF_THE_CHECKOUT = frozenset({"unreadable program"})
"""A finding about where the tests run, and not about the cluster: nobody may not read the checkout or its Python."""
SHOWN = re.compile(r"^(FAULT|note )  (.+?): (.*)\n {7}(.*)$", re.MULTILINE)


class Planted:
    """The master and two workers. `entered`: the program that enters their namespaces; empty if they have none."""

    def __init__(self, rig: Rig, entered: tuple[str, ...]) -> None:
        self.rig = rig
        self._entered = entered
        self.master, self.worker, self.other = rig.nodes

    def doctor(self, node: RigNode) -> dict[str, Finding]:
        """Runs the command in this process; returns what it shows, by name."""
        words = ["--root", str(node.root), "doctor"]
        return shown(CliRunner().invoke(command, words, catch_exceptions=False).output)

    def doctor_there(self, node: RigNode) -> dict[str, Finding]:
        """Runs the command where the nodes run."""
        return shown(self.rig.command(node, "doctor", timeout_s=120).stdout)

    def there(self, script: str, *words: object) -> None:
        """Runs a shell script where the nodes run."""
        line = [*self._entered, "sh", "-ec", script, "sh", *map(str, words)]
        subprocess.run(line, check=True, capture_output=True, timeout=60)

    @property
    def is_apart(self) -> bool:
        """Whether they have namespaces."""
        return bool(self._entered)

    def restart(self, node: RigNode) -> None:
        done = self.rig.command(node, "restart", timeout_s=120)
        assert done.returncode == 0, done.stderr

    def run(self, cure: str) -> None:
        """Types a command of a cure."""
        subprocess.run(["sh", "-ec", cure], check=True, capture_output=True, timeout=60)

    def wait_found(self, node: RigNode, *names: str, there: bool = False) -> dict[str, Finding]:
        """Waits until doctor finds all of these; returns everything that it finds."""
        look = self.doctor_there if there else self.doctor
        found: dict[str, Finding] = {}

        def all_found() -> bool:
            nonlocal found
            found = look(node)
            return found.keys() >= set(names)

        try:
            wait_until(all_found, f"{names} of {node.name}")
        except AssertionError as failure:
            failure.add_note(f"{found}\n{self.rig.told()}")
            raise
        return found

    def wait_healed(self, *, there: bool = False) -> None:
        """Waits until no node has anything for doctor."""
        look = self.doctor_there if there else self.doctor
        found: list[object] = []

        def nothing() -> bool:
            found[:] = [(node.name, one) for node in self.rig.nodes for one in look(node).values()]
            return not found

        try:
            wait_until(nothing, "doctor finds nothing")
        except AssertionError as failure:
            failure.add_note(f"{found}\n{self.rig.told()}")
            raise


def shown(output: str) -> dict[str, Finding]:
    """Parses what `clusterd doctor` prints."""
    found = {name: Finding(name, what, cure, mark == "FAULT") for mark, name, what, cure in SHOWN.findall(output)}
    assert re.search(r"\d+ faults? found\.\n\Z", output), output
    return {name: one for name, one in found.items() if name not in OF_THE_CHECKOUT}


@contextlib.contextmanager
def edited(path: Path, change: Callable[[str], str]) -> Iterator[None]:
    """Changes a file, and puts it back."""
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)
    try:
        yield
    finally:
        path.write_text(before)


@contextlib.contextmanager
def planted() -> Iterator[Planted]:
    """Starts a master and two workers, the second one with the REST API."""
    owner = OWNER if IS_ROOT else pwd.getpwuid(os.geteuid()).pw_name
    with namespaces() as entered, contextlib.closing(Warm(*entered)) as warm, rigs() as make:
        rig = make(2, files=20, run=warm.run, within=True, overrides={"clusterd": {"owner": owner}})
        (rig.master.root / "etc/client.keys").write_text("")
        done = rig.command(rig.nodes[2], "api", "enable", "--port", str(free_port()), timeout_s=120)
        assert done.returncode == 0, done.stderr
        if IS_ROOT:
            user = pwd.getpwnam(OWNER)
            for node in rig.nodes:
                for path in [node.root, *node.root.rglob("*")]:
                    os.chown(path, user.pw_uid, user.pw_gid)
        rig.start()
        yield Planted(rig, entered)


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[str, ...]]:
    """Makes namespaces in which all users are the same as outside. Returns the program with which one enters them, or
    nothing where that is not allowed."""
    if not IS_ROOT or shutil.which("nsenter") is None or shutil.which("unshare") is None:
        yield ()
        return
    with subprocess.Popen(
        [*NAMESPACES, "sh", "-c", "echo; cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as holder:
        assert holder.stdout is not None
        if not holder.stdout.read(1):
            yield ()
            return
        for kind in ("uid", "gid"):
            Path(f"/proc/{holder.pid}/{kind}_map").write_text("0 0 65536\n")
        yield ("nsenter", "-t", str(holder.pid), "-U", "-m")
