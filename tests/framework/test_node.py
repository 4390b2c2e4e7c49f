"""A real node with the fake framework below its root: the process is the supervisor's child, is replaced when it dies,
and ends with the node."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from clusterd.pidfile import running_pid
from tests.conftest import rigs
from tests.fakes.framework import PASSWORD, FakeFramework
from tests.supervisor.helpers import until
from tests.system.dapi_client import ask, failure, result
from tests.tools.planted import shown as shown_by_doctor
from tools.doctor.finding import Finding
from tools.rig.nodes import Rig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def started() -> Iterator[Rig]:
    """A master whose framework starts with it, and a worker without one."""
    with rigs() as make:
        made = make(1, overrides={"clusterd": {"framework": "on"}})
        FakeFramework(made.master.root)
        path = made.workers[0].root / "etc/cluster.json"
        path.write_text(path.read_text().replace('"on"', '"auto"'))
        made.start()
        yield made


@pytest.fixture
def rig(started: Rig) -> Rig:
    """Waits until both nodes run and the worker is connected, whatever the test before did."""
    for node in started.nodes:
        if running_pid(str(node.root)) is None:
            started.start(node.name)
    until(started.are_connected, "the worker is connected", 120)
    return started


def shown(rig: Rig, name: str = "master") -> dict[str, Any]:
    (facts,) = rig.status(name).values()
    found: dict[str, Any] = facts["framework"]
    return found


def ready(rig: Rig, not_pid: int | None = None) -> dict[str, Any]:
    """Returns the helper that serves, another one than `not_pid`."""

    def look() -> dict[str, Any] | None:
        with contextlib.suppress(KeyError, TypeError):
            for helper in shown(rig)["helpers"]:
                if helper["state"] == "ready" and helper["pid"] != not_pid:
                    return helper  # type: ignore[no-any-return]
        return None

    found = until(look, "a helper is ready", 120)
    assert found is not None
    return found


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_status_shows_it_and_it_is_a_process_like_the_others(rig: Rig) -> None:
    helper = ready(rig)
    found = shown(rig)
    assert found["state"] == "ready"
    assert found["version"] == "4.14.1"
    process = psutil.Process(helper["pid"])
    net = psutil.Process(rig.processes("master")["net"])
    assert process.ppid() == rig.processes("master")["supervisor"]
    assert process.uids() == net.uids()
    assert process.nice() == psutil.Process(process.ppid()).nice(), "its functions have the rank of other programs"
    assert process.name() == f"clusterd-fw-{helper['name'].rpartition('-')[2]}"
    command = process.cmdline()
    assert command[:5] == [str(rig.master.root / "framework/python/bin/python3"), "-I", "-B", "-u", "-"]
    (rig_key,) = {line for line in (rig.master.root / "etc/ossec.conf").read_text().splitlines() if "<key>" in line}
    assert rig_key.strip().removeprefix("<key>").removesuffix("</key>") not in " ".join(command)
    text = rig.command(rig.master, "status", timeout_s=60).stdout
    assert "framework ready, version 4.14.1" in text
    assert f"pid {helper['pid']}" in text


def test_existing_users_log_in_through_a_worker_and_have_their_permissions(rig: Rig) -> None:
    ready(rig)
    for node in rig.nodes:
        for password, is_right in ((PASSWORD, True), ("wrong", False)):
            arguments = {"user": "wazuh", "password": password}
            answer = ask(node, "api.authentication", "check_user_master", arguments, basic_services=["wazuh-clusterd"])
            assert result(answer)["result"] == {"result": is_right}
        answer = ask(node, "wazuh.rbac.preprocessor", "get_permissions", {"user_id": "wazuh"})
        permissions = result(answer)["result"]
        assert permissions["security:read"] == {"user:id:*": "allow"}
        answer = ask(node, "wazuh.security", "get_users", rbac_permissions=permissions)
        assert [item["username"] for item in result(answer)["affected_items"]] == ["wazuh"]
        denied = ask(node, "wazuh.security", "get_users", rbac_permissions={"rbac_mode": "white"})
        assert failure(denied)["code"] == 4000


def test_hostile_names_and_markers_import_nothing(rig: Rig) -> None:
    ready(rig)
    call = {
        "__callable__": {"__name__": "system", "__module__": "os", "__qualname__": "system", "__type__": "function"}
    }
    for node in rig.nodes:
        assert failure(ask(node, "os", "system", {"command": "id"}))["code"] == 3009
        assert failure(ask(node, "wazuh.bad_luck", "echo"))["code"] == 3009
        assert failure(ask(node, "wazuh.security", "get_users", {"user_ids": [[call]]}))["code"] == 1000
    calls = rig.master.root / "framework/calls"
    assert not calls.exists() or "imported" not in calls.read_text()


def test_only_sync_and_the_supervisor_have_an_end_of_its_channel(rig: Rig) -> None:
    ready(rig)

    def pairs(pid: int) -> set[str]:
        """Nameless sockets that keep the limits of messages."""
        listed = subprocess.run(["cat", f"/proc/{pid}/net/unix"], capture_output=True, text=True, check=True).stdout
        seqpacket = {line.split()[6] for line in listed.splitlines()[1:] if line.split()[4] == "0005"}
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        return {link for link in links if link.startswith("socket:[") and link[8:-1] in seqpacket}

    having = {name for name, pid in rig.processes("master").items() if pid and pairs(pid)}
    assert having == {"supervisor", "sync"}


def test_a_node_without_a_framework_has_no_such_process(rig: Rig) -> None:
    found = shown(rig, rig.workers[0].name)
    assert found["state"] == "absent"
    assert not found["helpers"]
    assert "framework" not in rig.command(rig.workers[0], "status", timeout_s=60).stdout
    assert "framework" not in (rig.workers[0].root / "logs/cluster.log").read_text()
    children = psutil.Process(rig.processes(rig.workers[0].name)["supervisor"]).children()
    assert {child.pid for child in children} == {
        pid for name, pid in rig.processes(rig.workers[0].name).items() if name != "supervisor" and pid
    }


def test_one_that_is_killed_comes_back(rig: Rig) -> None:
    before = ready(rig)
    os.kill(before["pid"], signal.SIGKILL)
    assert ready(rig, before["pid"])["name"] != before["name"]
    assert "ended by SIGKILL" in (rig.master.root / "logs/cluster.log").read_text()


def test_after_a_killed_sync_a_new_helper_starts_and_the_old_one_ends(rig: Rig) -> None:
    before = ready(rig)
    sync = rig.processes("master")["sync"]
    assert sync
    os.kill(sync, signal.SIGKILL)
    ready(rig, before["pid"])
    until(lambda: is_gone(before["pid"]), "the old one has ended")


def test_a_reload_replaces_it(rig: Rig) -> None:
    before = ready(rig)
    assert rig.command(rig.master, "reload", timeout_s=60).returncode == 0
    ready(rig, before["pid"])
    until(lambda: is_gone(before["pid"]), "the old one has ended")


def test_doctor_names_what_is_wrong_with_it_until_that_is_mended(rig: Rig) -> None:
    (module,) = rig.master.root.glob("framework/python/lib/*/site-packages/wazuh/__init__.py")
    behaviour = rig.master.root / "framework/behaviour.json"
    good = module.read_text()

    def doctor() -> dict[str, Finding]:
        return shown_by_doctor(rig.command(rig.master, "doctor", timeout_s=120).stdout)

    before = ready(rig)
    whole = doctor()
    assert not whole["framework lacks functions"].is_fault  # the fake one has two dozen
    behaviour.write_text('{"import": "fail"}')
    module.write_text(good.replace("4.14.1", "4.13.0"))
    os.kill(before["pid"], signal.SIGKILL)
    failing = until(lambda: doctor().get("framework fails"), "it is found", 120)
    assert failing is not None
    assert (failing.is_fault, "clusterd log --grep Framework" in failing.cure) == (True, True)
    behaviour.unlink()
    old = ready(rig, before["pid"])
    version = doctor()["framework of another version"]
    assert (version.is_fault, "is version 4.13.0, this node is 4.14.1" in version.what) == (True, True)
    module.write_text(good)
    assert rig.command(rig.master, "reload", timeout_s=60).returncode == 0
    ready(rig, old["pid"])
    until(lambda: doctor().keys() == whole.keys(), "nothing more is found", 120)


def test_it_dies_with_the_supervisor(rig: Rig) -> None:
    before = ready(rig)
    supervisor = rig.processes("master")["supervisor"]
    assert supervisor
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: is_gone(before["pid"]), "it is gone")
    rig.start("master")
    ready(rig, before["pid"])


def test_a_stop_ends_it_in_its_turn(rig: Rig) -> None:
    before = ready(rig)
    rig.stop("master")
    assert is_gone(before["pid"])
    text = (rig.master.root / "logs/cluster.log").read_text()
    assert "is killed: framework" not in text
    rig.start("master")
    ready(rig)
