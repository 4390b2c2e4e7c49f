"""`doctor` and `check-config --connect` try etcd as the election would, and change nothing there."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clusterd.config.loading import load
from clusterd.exits import ExitCode
from clusterd.settings import Settings
from tests.election.etcd_talks import encoded, post
from tests.election.scripted_member import HEADER, answering, listening
from tools.cli import cluster as command
from tools.doctor.etcd import etcd
from tools.doctor.finding import Finding
from tools.init_node import init_node
from tools.rig.etcd import EtcdCluster
from tools.rig.etcd import etcd_cluster as running
from tools.rig.guard import guarded
from tools.rig.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lone() -> Iterator[EtcdCluster]:
    with guarded("etcd-") as directory, running(directory, 1) as cluster:
        yield cluster


def node(root: Path, endpoints: list[str], **etcd: str) -> Settings:
    """The settings of a new master that takes part in the election."""
    init_node(
        str(root),
        node_type="master",
        name="m",
        cluster="c",
        port=free_port(),
        bind="127.0.0.1",
        master=None,
        key_file=None,
        environment_key="k" * 32,
    )
    own = {"owner": "root", "monitor": {"port": free_port()}}
    ha = {"enabled": True, "advertise": "127.0.0.1:1516", "etcd": {"endpoints": endpoints} | etcd}
    (root / "etc/cluster.json").write_text(json.dumps({"clusterd": own | {"ha": ha}}))
    loaded = load(str(root))
    assert loaded.problems == []
    assert loaded.settings is not None
    return loaded.settings


def findings(settings: Settings) -> list[Finding]:
    """Without the note that etcd answers slowly: on a busy machine it does."""
    return [one for one in etcd(settings) if one.name != "etcd is slow"]


def tried(settings: Settings) -> list[tuple[str, str]]:
    return [(one.name, one.what) for one in findings(settings)]


@pytest.fixture
def base() -> Iterator[Path]:
    """Not below tmp_path: socket paths may have 107 bytes."""
    with guarded("doctor-") as made:
        yield made


def test_etcd_that_serves_is_no_finding_and_is_not_changed(base: Path, lone: EtcdCluster) -> None:
    settings = node(base / "m", lone.endpoints)
    before = post(lone.endpoints[0], "kv/range", {"key": encoded("/"), "range_end": encoded("0")})
    assert tried(settings) == []
    assert post(lone.endpoints[0], "kv/range", {"key": encoded("/"), "range_end": encoded("0")}) == before


def test_member_that_is_down_is_a_note_and_no_majority_a_fault(base: Path, lone: EtcdCluster) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    (found,) = findings(node(base / "m", [closed, lone.endpoints[0]]))
    assert (found.name, found.is_fault) == ("etcd member", False)
    assert closed in found.what
    assert "Connection refused" in found.what
    (found,) = findings(node(base / "n", [closed]))
    assert (found.name, found.is_fault) == ("no etcd", True)
    shown = CliRunner().invoke(command, ["--root", str(base / "n"), "check-config", "--connect"])
    assert shown.exit_code == ExitCode.FAILED
    assert f"no etcd: no member of etcd serves this node: {closed}" in shown.output


def test_members_of_two_etcds_and_alarms_are_faults(base: Path, lone: EtcdCluster) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        return 200, json.dumps({"header": HEADER, "leader": "8", "errors": ["memberID:8 alarm:NOSPACE "]}).encode()

    async def run() -> list[Finding]:
        async with listening(answering(answer)) as other:
            settings = node(base / "m", [lone.endpoints[0], other])
            return await asyncio.to_thread(lambda: findings(settings))

    found = asyncio.run(run())
    assert [one.name for one in found] == ["etcd alarm", "different etcds"]
    assert "NOSPACE" in found[0].what
    assert lone.endpoints[0] in found[1].what


def test_login_and_rights_are_tried(base: Path) -> None:
    with guarded("etcd-") as directory, running(directory, 1) as cluster:
        url = cluster.endpoints[0]
        for user in ("root", "reader", "other"):
            post(url, "auth/user/add", {"name": user, "password": "right"})
        for role in ("root", "reader"):
            post(url, "auth/role/add", {"name": role})
        permission = {"permType": "READ", "key": encoded("/clusterd/c/"), "range_end": encoded("/clusterd/c0")}
        post(url, "auth/role/grant", {"name": "reader", "perm": permission})
        post(url, "auth/user/grant", {"user": "root", "role": "root"})
        post(url, "auth/user/grant", {"user": "reader", "role": "reader"})
        post(url, "auth/enable", {})
        for name in ("right", "wrong"):
            (directory / name).write_text(name)
            (directory / name).chmod(0o600)

        def one(name: str, **given: str) -> tuple[str, str]:
            (found,) = tried(node(base / name, [url], **given))
            return found

        right = str(directory / "right")
        assert tried(node(base / "root", [url], user="root", password_file=right)) == []
        assert "does not let the user other in" in one("a", user="other", password_file=str(directory / "wrong"))[1]
        name, text = one("b", user="other", password_file=right)
        assert name == "etcd refuses"
        assert "role grant-permission" in text
        assert "role grant-permission" in one("c", user="reader", password_file=right)[1]  # it may not write
        assert "wants a login" in one("d")[1]


def test_nothing_is_tried_while_the_election_is_off(base: Path) -> None:
    settings = node(base / "m", ["http://127.0.0.1:1"])
    (base / "m/etc/cluster.json").write_text("{}")
    off = load(settings.root).settings
    assert off is not None
    assert tried(off) == []
