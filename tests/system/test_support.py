"""`clusterd support` on a running node that has everything which holds secrets: the election in an etcd with a login,
hooks, users of the REST API, certificates, agents."""

import contextlib
import json
import tarfile
from pathlib import Path

import pytest

from clusterd.monitor.journal_reader import JournalReader
from clusterd.rundir import journal_path
from clusterd.token_secret import SECRET_FILE
from tests.conftest import KEY, MakeRig
from tests.election.etcd_talks import encoded, post
from tests.net.harness import wait_until
from tests.system.rest import PASSWORD, Caller, turn_on
from tools.rig.cluster_json import amend
from tools.rig.etcd import etcd_cluster
from tools.rig.guard import guarded
from tools.rig.ports import HOST, free_port
from tools.rig.wdb_client import WdbError, authd

pytestmark = pytest.mark.slow

OF_ETCD, OF_HOOK, OF_AUTHD = "password-of-etcd", "token-for-the-pager", "password-of-enrolment"


def lock(url: str, root: Path) -> None:
    """Gives etcd a login, with the rights that docs/ha.md names; the password is in a file of the node."""
    for user, role in (("root", "root"), ("clusterd", "clusterd")):
        post(url, "auth/user/add", {"name": user, "password": OF_ETCD})
        post(url, "auth/role/add", {"name": role})
        post(url, "auth/user/grant", {"user": user, "role": role})
    right = {"permType": "READWRITE", "key": encoded("/clusterd/rig/"), "range_end": encoded("/clusterd/rig0")}
    post(url, "auth/role/grant", {"name": "clusterd", "perm": right})
    post(url, "auth/enable", {})
    (root / "etc/etcd.password").write_text(OF_ETCD)
    (root / "etc/etcd.password").chmod(0o600)


def test_archive_of_a_running_node_with_everything_holds_no_secret(make_rig: MakeRig, tmp_path: Path) -> None:
    """What processes have in their memory and descriptors is part of the archive: their stacks, their files."""
    with guarded("etcd-") as directory, etcd_cluster(directory, 1) as etcd:
        rig = make_rig(0)
        node, root = rig.master, rig.master.root
        lock(etcd.endpoints[0], root)
        login = {"user": "clusterd", "password_file": str(root / "etc/etcd.password")}
        ran = tmp_path / "ran"
        own = {
            "ha": {
                "enabled": True,
                "advertise": f"{HOST}:{node.port}",
                "etcd": {"endpoints": etcd.endpoints} | login,
            },
            "hooks": [{"on": ["registration"], "run": ["/bin/sh", "-c", f"cat >{ran}", OF_HOOK]}],
            "monitor": {"enabled": True, "port": free_port()},
            "api": {"host": HOST},
        }
        amend(root, {"clusterd": own})
        (root / "etc/authd.pass").write_text(OF_AUTHD)
        (root / "etc/client.keys").write_text("")
        turn_on(rig)
        rig.start()

        def added() -> str:
            with contextlib.suppress(OSError, WdbError):
                answer = authd(root, {"function": "add", "arguments": {"name": "a", "ip": "any"}})
                return str(answer["data"]["key"]) if answer["error"] == 0 else ""
            return ""

        key = wait_until(added, "it leads, and registers an agent")
        with Caller(node) as caller:
            token = caller.token
            assert caller.get("/agents")["error"] == 0
        wait_until(ran.exists, "the hook has run")
        journal = JournalReader(journal_path(str(root)))  # the monitor writes it a moment after the hook has begun
        wait_until(lambda: [event for event in journal.latest() if event["kind"] == "registration"], "it is written")
        users = json.loads((root / "etc/clusterd-api-users.json").read_text())["users"]
        secrets = {KEY, PASSWORD, OF_ETCD, OF_HOOK, OF_AUTHD, key, token, (root / SECRET_FILE).read_text().strip()}
        secrets |= {user[what] for user in users for what in ("hash", "salt")}
        secrets |= {line for line in (root / "etc/clusterd-api.key").read_text().splitlines() if "-----" not in line}
        target = tmp_path / "support.tar.gz"
        done = rig.command(node, "support", "-o", str(target), timeout_s=120)
        assert done.returncode == 0, done.stderr
    with tarfile.open(target) as archive:
        parts = {one.name.partition("/")[2]: archive.extractfile(one) for one in archive.getmembers()}
        found = {name: part.read().decode(errors="replace") for name, part in parts.items() if part is not None}
    processes = {f"processes/{name}/files" for name in ("api", "election", "monitor", "store", "sync")}
    assert {*processes, "stacks.txt", "journal.jsonl", "logs/cluster.log", "cluster.json"} <= found.keys()
    assert '"kind": "registration"' in found["journal.jsonl"]
    assert [name for name, text in found.items() if any(secret in text for secret in secrets)] == []
