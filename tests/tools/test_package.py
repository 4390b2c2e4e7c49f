"""`make package`: what is in the .deb, and that what was unpacked runs. Needs dpkg-deb and a package index, as
`make venv` does."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clusterd import __version__
from clusterd.build import installed
from tests.fakes.manager import Manager

PROJECT = Path(__file__).parents[2]
BUILD = (sys.executable, str(PROJECT / "contrib/deb/build.py"))
NO_INDEX = ("No matching distribution", "Could not find a version", "Failed to establish a new connection")


def told(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_package_holds_an_environment_that_runs_and_starts_nothing(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("there is no dpkg-deb on this machine")
    done = subprocess.run([*BUILD, "--out", tmp_path / "dist"], capture_output=True, text=True, timeout=850)
    if any(text in done.stdout + done.stderr for text in NO_INDEX):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    (package,) = (tmp_path / "dist").iterdir()

    facts = told("dpkg-deb", "-I", package)
    assert "Package: clusterd\n" in facts
    assert f"Version: {__version__}\n" in facts
    listed = [line.split(maxsplit=5) for line in told("dpkg-deb", "-c", package).splitlines()]
    assert {row[1] for row in listed} == {"root/root"}
    assert [row for row in listed if row[0][5] == "w" or row[0][8] == "w"] == [
        row for row in listed if row[0][0] == "l"
    ]
    names = {row[5].split(" -> ")[0].removeprefix("./") for row in listed}
    wanted = {"opt/clusterd/bin/clusterd", "usr/bin/clusterd", "usr/lib/systemd/system/clusterd.service"}
    doc = "usr/share/doc/clusterd"
    wanted |= {f"{doc}/operations/day2.md", f"{doc}/ha.md", f"{doc}/contrib/clusterd.sysusers"}
    wanted |= {f"{doc}/contrib/monitoring/prometheus.yml", "usr/share/bash-completion/completions/clusterd"}
    assert wanted | {"usr/share/man/man1/clusterd.1.gz", "usr/share/man/man1/clusterd-status.1.gz"} <= names
    assert [name for name in names if "/tools/rig" in name or "/tests/" in name.split("site-packages")[0]] == []
    assert {name.split("/")[0] for name in names} == {"", "opt", "usr"}

    unpacked = tmp_path / "unpacked"
    told("dpkg-deb", "-x", package, unpacked)
    environment = unpacked / "opt/clusterd"
    for script in ("clusterd", "cluster_control", "wazuh-clusterd"):
        assert (environment / "bin" / script).read_text().startswith("#!/opt/clusterd/bin/python\n")
    run = [environment / "bin/python", "-I", environment / "bin/clusterd"]
    before = sorted(environment.rglob("*"))
    assert told(*run, "version") == f"clusterd {__version__} (build {installed().build}, {environment})\n"
    check = [environment / "bin/python", "-I", "-c", "import clusterd.supervisor.run as run; print(run.__file__)"]
    assert told(*check).startswith(str(environment))
    assert sorted(environment.rglob("*")) == before  # all is compiled: what is installed is what is removed

    told("dpkg-deb", "-e", package, tmp_path / "control")
    scripts = {path.name: path.read_text() for path in (tmp_path / "control").iterdir()}
    assert set(scripts) == {"control", "postinst", "prerm", "postrm"}
    for word in ("systemctl start", "systemctl restart", "systemctl enable", "clusterd start", "adopt"):
        assert word not in scripts["postinst"]
    # Not below tmp_path: socket paths have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="deb-") as machine:
        _live_with_dpkg(package, Path(machine))


def _live_with_dpkg(package: Path, machine: Path) -> None:
    """dpkg installs it on a machine of its own (a directory; its scripts run without chroot), a manager there uses it,
    and it is removed without a trace."""
    (machine / "var/lib/dpkg/updates").mkdir(parents=True)
    (machine / "var/lib/dpkg/info").mkdir()
    (machine / "var/lib/dpkg/status").touch()
    manager = Manager(machine / "var/ossec")
    bin_before = {path.name: path.read_bytes() for path in (manager.root / "bin").iterdir()}
    clusterd = [machine / "opt/clusterd/bin/python", "-I", machine / "opt/clusterd/bin/clusterd"]
    adopt = [*clusterd, "--root", manager.root, "adopt"]

    def dpkg(*words: object) -> subprocess.CompletedProcess[str]:
        options = ["--root", machine, "--force-script-chrootless", "--force-depends", "--force-not-root"]
        line = ["dpkg", *options, "--log", machine / "dpkg.log", *words]
        return subprocess.run([str(word) for word in line], capture_output=True, text=True, timeout=300)

    done = dpkg("--install", package)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (machine / "usr/bin/clusterd").readlink() == Path("/opt/clusterd/bin/clusterd")
    told(*adopt)
    assert f"python={machine}/opt/clusterd/bin/python\n" in (manager.root / "bin/wazuh-clusterd").read_text()
    refused = dpkg("--purge", "clusterd")
    assert refused.returncode != 0
    assert "clusterd adopt --undo --now" in refused.stderr
    assert told(*clusterd, "version").startswith(f"clusterd {__version__} ")
    told(*adopt, "--undo")
    assert {path.name: path.read_bytes() for path in (manager.root / "bin").iterdir()} == bin_before
    gone = dpkg("--purge", "clusterd")
    assert gone.returncode == 0, gone.stderr
    assert not (machine / "opt").exists()
    assert [path for path in machine.rglob("*clusterd*") if not path.is_relative_to(manager.root)] == []


def test_machine_without_dpkg_is_told_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [*BUILD, "--out", tmp_path / "dist"],
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("make package: there is no dpkg-deb on this machine")
    assert "/opt/clusterd" in done.stderr
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(("python", "code"), [("/opt/clusterd/bin/python", 1), ("/elsewhere/bin/python", 0)])
def test_package_is_not_removed_from_under_a_manager_that_runs_it(tmp_path: Path, python: str, code: int) -> None:
    launcher = tmp_path / "wazuh-clusterd"
    launcher.write_text(f"#!/bin/sh\npython={python}\n")
    script = _prerm().replace("/var/ossec/bin/wazuh-clusterd", str(launcher))
    done = subprocess.run(["/bin/sh", "-c", script, "prerm", "remove"], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert ("clusterd adopt --undo --now" in done.stderr) == bool(code)
    assert subprocess.run(["/bin/sh", "-c", script, "prerm", "upgrade"], timeout=60).returncode == 0


def test_package_is_not_removed_from_under_a_program_of_it(tmp_path: Path) -> None:
    """A node at another root, or a `clusterd top` that somebody has open."""
    place = tmp_path / "bin"
    place.mkdir()
    program = place / "sleep"
    shutil.copy("/bin/sleep", program)
    script = _prerm().replace("[/]opt/clusterd/bin/", f"[/]{str(place)[1:]}/")

    def remove() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["/bin/sh", "-c", script, "prerm", "remove"], capture_output=True, text=True, timeout=60)

    assert remove().returncode == 0
    running = subprocess.Popen([program, "600"])
    try:
        refused = remove()
    finally:
        running.kill()
        running.wait(30)
    assert (refused.returncode, f"(pid {running.pid})" in refused.stderr) == (1, True), refused.stderr


def _prerm() -> str:
    """The script, without its calls of systemd."""
    return (PROJECT / "contrib/deb/prerm").read_text().replace("systemctl", "true")
