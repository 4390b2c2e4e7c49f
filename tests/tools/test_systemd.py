"""`start` and `restart` leave a node in the systemd unit that runs it."""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clusterd.exits import ExitCode
from tests.conftest import KEY
from tools import cli_start, stopping, systemd
from tools.cli import cluster
from tools.init_node import init_node

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives systemd orders")
SYSTEMCTL = """#!/bin/sh
echo "$*" >> {orders}
[ "$1" = show ] && cat {shown}
exit {code}
"""


class Systemd:
    """A `systemctl` that knows one unit, and writes down what it is asked."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self.shown, self.orders = top / "shown", top / "orders"
        self.shows(MainPID="17")
        self.ends_with(0)

    def shows(self, **properties: str) -> None:
        self.shown.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))

    def ends_with(self, code: int) -> None:
        program = self._top / "systemctl"
        program.write_text(SYSTEMCTL.format(orders=self.orders, shown=self.shown, code=code))
        program.chmod(0o755)

    def given(self) -> list[str]:
        return [line for line in self.orders.read_text().splitlines() if not line.startswith("show ")]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path))
    return Systemd(tmp_path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    made = str(tmp_path / "m")
    init_node(
        made,
        node_type="master",
        name="m",
        cluster="wazuh",
        key_file=None,
        environment_key=KEY,
        port=None,
        bind="127.0.0.1",
        master=None,
    )
    monkeypatch.setattr(stopping, "stop", lambda *_, **__: pytest.fail("the unit is not stopped by a signal"))
    return made


def clusterd(root: str, *words: str) -> Result:
    return CliRunner().invoke(cluster, ["--root", root, *words])


@pytest.mark.parametrize(
    ("cgroup", "main_pid", "kind", "unit"),
    [
        ("0::/system.slice/clusterd.service\n", "17", "notify", "clusterd.service"),
        ("9:cpu:/x.service\n1:name=systemd:/system.slice/node.service\n", "17", "simple", "node.service"),
        ("0::/system.slice/wazuh-manager.service\n", "0", "forking", None),
        ("0::/system.slice/wazuh-manager.service\n", "17", "forking", None),
        ("0::/user.slice/user-0.slice/session-3.scope\n", "17", "notify", None),
        ("", "17", "notify", None),
    ],
)
def test_unit_of_a_node_is_the_one_whose_main_process_it_is(
    fake: Systemd, tmp_path: Path, cgroup: str, main_pid: str, kind: str, unit: str | None
) -> None:
    (tmp_path / "17").mkdir()
    (tmp_path / "17/cgroup").write_text(cgroup)
    fake.shows(MainPID=main_pid, Type=kind)
    assert systemd.unit_of(17, str(tmp_path)) == unit
    assert systemd.unit_of(18, str(tmp_path)) is None


@needs_root
def test_enabled_unit_is_that_of_this_root(fake: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"UnitFileState": "enabled", "Type": "notify", "Environment": "A=1 CLUSTERD_ROOT=/srv/m"}
    fake.shows(**good)
    assert systemd.enabled_unit("/srv/m", "/var/ossec") == "clusterd.service"
    assert systemd.enabled_unit("/var/ossec", "/var/ossec") is None
    for words in ("--root /srv/other start -f", "start -f --root=/srv/other"):  # more than the environment
        fake.shows(**good, ExecStart=f"{{ path=/opt/clusterd/bin/clusterd ; argv[]=/opt/x {words} ; pid=0 }}")
        assert systemd.enabled_unit("/srv/other", "/var/ossec") == "clusterd.service"
        assert systemd.enabled_unit("/srv/m", "/var/ossec") is None
    fake.shows(**good | {"Environment": "A=it's"})
    assert systemd.enabled_unit("/var/ossec", "/var/ossec") == "clusterd.service"
    for changed in ({"UnitFileState": "disabled"}, {"Type": "forking"}):
        fake.shows(**good | changed)
        assert systemd.enabled_unit("/srv/m", "/var/ossec") is None
    monkeypatch.setattr(systemd, "BOOTED", "/nowhere")
    fake.shows(**good)
    assert systemd.enabled_unit("/srv/m", "/var/ossec") is None


@needs_root
def test_restart_of_a_node_of_a_unit_is_an_order_to_systemd(
    fake: Systemd, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_start, "running_pid", lambda root: os.getpid())
    monkeypatch.setattr(cli_start, "unit_of", lambda pid: "clusterd.service")
    monkeypatch.setattr(cli_start, "_say_master", lambda root, wait_s: None)
    done = clusterd(root, "restart")
    assert (done.exit_code, done.stderr) == (ExitCode.OK, "")
    assert done.stdout == f"clusterd runs (pid {os.getpid()}), as clusterd.service.\n"
    assert fake.given() == ["--quiet restart clusterd.service"]
    fake.ends_with(1)
    done = clusterd(root, "restart")
    assert done.exit_code == ExitCode.COULD_NOT_START
    assert done.stderr == "clusterd: clusterd.service did not start: journalctl -n 20 -u clusterd.service\n"
    Path(root, "etc/ossec.conf").write_text("<ossec_config><cluster><key>short</key></cluster></ossec_config>")
    before = fake.given()
    assert clusterd(root, "restart").exit_code == ExitCode.BAD_CONFIGURATION
    assert fake.given() == before


@needs_root
def test_unit_of_another_clusterd_is_not_started_in_place_of_this_one(fake: Systemd, root: str) -> None:
    """After an upgrade into an environment beside the old one, `restart` of the new one started the old one."""
    good = {"UnitFileState": "enabled", "Type": "notify", "Environment": f"CLUSTERD_ROOT={root}"}
    ours = f"{Path(sys.executable).parent}/clusterd"
    for program, refused in (("/opt/old/bin/clusterd", True), (ours, False), ("/usr/bin/nice", False)):
        fake.shows(**good, ExecStart=f"{{ path={program} ; argv[]={program} start -f ; ignore_errors=no ; pid=0 }}")
        fake.orders.write_text("")
        done = clusterd(root, "start", "--wait-master", "0")
        assert (done.exit_code == 1, fake.given() == []) == (refused, refused), done.stderr
        assert ("would start /opt/old/bin/clusterd" in done.stderr) == refused


def test_clusterd_of_a_system_wide_installation_is_itself_though_python_is_elsewhere(
    fake: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.shows(ExecStart="{ path=/usr/local/bin/clusterd ; argv[]=/usr/local/bin/clusterd start -f }")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert systemd.other_program("clusterd.service") == "/usr/local/bin/clusterd"
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/clusterd", "restart"])
    assert systemd.other_program("clusterd.service") is None


@needs_root
def test_start_of_a_node_with_an_enabled_unit_is_an_order_to_systemd(fake: Systemd, root: str) -> None:
    fake.shows(UnitFileState="enabled", Type="notify", Environment=f"CLUSTERD_ROOT={root}")
    done = clusterd(root, "start", "--wait-master", "0")
    assert (done.exit_code, done.stderr) == (ExitCode.OK, "")
    assert done.stdout == "clusterd.service starts: clusterd status\n"  # this one makes no pid file
    assert fake.given() == ["--quiet start clusterd.service"]
    done = clusterd(root, "restart")
    assert (done.exit_code, fake.given()[-1]) == (ExitCode.OK, "--quiet restart clusterd.service")
    for words, limit in (("start --wait-master 0", "TimeoutStartSec="), ("restart", "TimeoutStopSec=")):
        done = clusterd(root, *words.split(), "--timeout", "7")
        said = f"clusterd: --timeout has no effect on clusterd.service: its limit is {limit}\n"
        assert done.exit_code == ExitCode.OK
        assert done.stderr.startswith(said)
    Path(root, "etc/ossec.conf").write_text("<ossec_config><cluster><key>short</key></cluster></ossec_config>")
    done = clusterd(root, "start")
    assert (done.exit_code, len(fake.given())) == (ExitCode.BAD_CONFIGURATION, 4)
    assert "etc/ossec.conf" in done.stderr, "the mistakes, and not where systemd has them"
