"""`clusterd support`: what is in the archive, and that no secret is."""

import json
import os
import re
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clusterd.messages.journal import WorkerEvent
from clusterd.role import LEFT_BEHIND
from clusterd.rundir import API_FILES
from clusterd.users import add_user, make_user
from tests.monitor.written import write
from tools.cli import cluster
from tools.init_node import init_node
from tools.support import CHILDREN, MASK, SecretSearch, _cluster_blocks, masked, secrets_of

KEY = "0123456789abcdef0123456789abcdef"
AGENT_KEY = "a" * 64


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node that does not run, with every kind of secret."""
    root = tmp_path / "m"
    init_node(
        str(root),
        node_type="master",
        name="m",
        cluster="wazuh",
        key_file=None,
        environment_key=KEY,
        port=None,
        bind="127.0.0.1",
        master=None,
    )
    conf = root / "etc/ossec.conf"
    other = "<ossec_config><integration><api_key>integration-secret</api_key></integration></ossec_config>\n"
    conf.write_text(conf.read_text() + other)
    (root / "etc/client.keys").write_text(f"001 web any {AGENT_KEY}\n002 !old any {'b' * 64}\n")
    (root / "etc/authd.pass").write_text("registration-password\n")
    (root / "etc/sslmanager.key").write_text("-----BEGIN PRIVATE KEY-----\nMIIEvgIBADANBg\n-----END PRIVATE KEY-----\n")
    hooks = [{"on": ["worker"], "run": ["/bin/page", "ops-token"]}]
    own = {"tls": {"key": "etc/x.key"}, "token": "xyz", "hooks": hooks}
    (root / "etc/cluster.json").write_text(json.dumps({"clusterd": own}))
    write(root, [WorkerEvent(worker="w1", what="lost")])
    add_user(str(root), make_user("ann", "correct horse", 0.0, cost=2))
    (root / "logs/cluster.log").write_text("2026/11/30 00:00:00 INFO: [Master] [Main] Serving\n")
    return root


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cluster, ["--root", str(root), "support", *arguments])


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read()
        return found


def test_archive_holds_state_configuration_and_logs_and_no_secret(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.tar.gz"
    done = run(root, "-o", str(target), "--json")
    assert done.exit_code == 0, done.output
    assert target.stat().st_mode & 0o777 == 0o600
    parts = contents(target)
    assert {"versions.txt", "status.json", "doctor.json", "cluster.json", "tree.txt"} <= parts.keys()
    assert parts["logs/cluster.log"].endswith(b"Serving\n")
    assert MASK.encode() in parts["ossec.conf-cluster.xml"]
    assert b"<node_name>m</node_name>" in parts["ossec.conf-cluster.xml"]
    hooks = [{"on": ["worker"], "run": ["/bin/page", MASK]}]
    own = {"tls": {"key": "etc/x.key"}, "token": MASK, "hooks": hooks}
    assert json.loads(parts["cluster.json"]) == {"clusterd": own}
    assert json.loads(parts["journal.jsonl"])["worker"] == "w1"
    everything = b"".join(parts.values())
    for secret in (KEY, AGENT_KEY, "registration-password", "MIIEvgIBADANBg", "integration-secret", "ops-token"):
        assert secret.encode() not in everything
    assert set(json.loads(done.output)["parts"]) == parts.keys()


def test_every_kind_of_secret_is_known(root: Path) -> None:
    for place in (f"{API_FILES}/clusterd-api-users.json", f"{LEFT_BEHIND}/3/files/etc/client.keys"):
        (root / place).parent.mkdir(parents=True)
    (root / API_FILES / "clusterd-api-users.json").write_text('{"users":[{"name":"bob","hash":"hash-of-bob"}]}')
    (root / API_FILES / "clusterd-api-token.key").write_text("token-of-the-master\n")
    (root / LEFT_BEHIND / "3/files/etc/client.keys").write_text(f"003 gone any {'c' * 64}\n")
    (root / "etc/.client.keys.before-promotion").write_text(f"004 before any {'d' * 64}\n")
    found = secrets_of(str(root))
    for secret in ("hash-of-bob", "token-of-the-master", "c" * 64, "d" * 64, "integration-secret"):
        assert secret.encode() in found
    user = json.loads((root / "etc/clusterd-api-users.json").read_text())["users"][0]
    for secret in (KEY, AGENT_KEY, "b" * 64, "registration-password", "MIIEvgIBADANBg", user["hash"], user["salt"]):
        assert secret.encode() in found


@pytest.mark.parametrize(
    "written",
    [
        f"<key>{KEY}</key>",
        f"<key >{KEY}</key >",
        f"<KEY a='b'>\n{KEY}</Key>",
        f"<key>{KEY}<key>",
        f"<key>{KEY}",
        f"<key><!-- of May -->{KEY}</key>",
        f"<!-- {KEY} --><key>short</key>",
        f"<kye>{KEY}</kye>",
    ],
)
def test_key_in_a_file_with_mistakes_is_not_shown(root: Path, written: str) -> None:
    """Nothing else knows the key of a configuration that cannot be read."""
    (root / "etc/ossec.conf").write_text(
        f"<ossec_config><cluster >\n<name>c</name>{written}\n<node_name>m</node_name><port>none</port></cluster>"
    )
    shown = _cluster_blocks(str(root)).decode()
    assert KEY not in shown
    assert all(one in shown for one in ("<name>c</name>", MASK, "<node_name>m</node_name>", "<port>none</port>"))
    if "<!--" not in written and "kye" not in written:
        assert KEY.encode() in secrets_of(str(root))


def test_password_in_another_encoding_is_known_and_never_shown(root: Path, tmp_path: Path) -> None:
    (root / "etc/authd.pass").write_bytes(b"gr\xfc\xdfe-an-alle\n")
    assert b"gr\xfc\xdfe-an-alle" in secrets_of(str(root))
    done = run(root, "-o", str(tmp_path / "s.tar.gz"))
    assert (done.exit_code, "an-alle" in done.output) == (0, False)


def test_password_and_key_for_etcd_are_known_wherever_they_are(root: Path, tmp_path: Path) -> None:
    secret, key = tmp_path / "etcd.password", tmp_path / "etcd.key"
    secret.write_text("password-of-etcd\n")
    key.write_text("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIetcd\n-----END EC PRIVATE KEY-----\n")
    for path in (secret, key):
        path.chmod(0o600)
    etcd = {"endpoints": ["https://127.0.0.1:2379"], "user": "m", "password_file": str(secret)}
    etcd |= {"cert": str(tmp_path / "etcd.crt"), "key": str(key)}
    (root / "etc/cluster.json").write_text(json.dumps({"clusterd": {"ha": {"etcd": etcd}}}))
    with open(root / "logs/cluster.log", "a") as log:
        log.write("oh no: password-of-etcd\n")
    assert {b"password-of-etcd", b"MHcCAQEEIetcd"} <= set(secrets_of(str(root)))
    assert run(root, "-o", str(tmp_path / "s.tar.gz")).exit_code == 1


@pytest.mark.parametrize("secret", [KEY, AGENT_KEY, "registration-password"])
def test_secret_in_a_log_ends_it_and_leaves_nothing(root: Path, tmp_path: Path, secret: str) -> None:
    with open(root / "logs/cluster.log", "a") as log:
        log.write(f"oh no: {secret}\n")
    target = tmp_path / "s.tar.gz"
    done = run(root, "-o", str(target))
    assert done.exit_code == 1
    assert "logs/cluster.log holds a key" in done.output
    assert secret not in done.output
    assert not target.exists()


def test_file_that_is_gone_when_it_is_looked_at_takes_no_other_with_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((one, names, ["gone", *files]) for one, names, files in real(top)))
    monkeypatch.chdir(tmp_path)
    assert run(root, "-o", "x.tar.gz").exit_code == 0
    assert "etc/ossec.conf" in contents(tmp_path / "x.tar.gz")["tree.txt"].decode()


def test_place_that_is_not_there_is_named_and_not_the_root(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(root, "-o", "nowhere/s.tar.gz")
    assert (done.exit_code, done.output) == (1, "clusterd: nowhere/s.tar.gz: No such file or directory\n")


def test_file_that_is_there_stays(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.tar.gz"
    target.write_text("mine")
    assert run(root, "-o", str(target)).exit_code == 1
    assert target.read_text() == "mine"


def test_masking_keeps_what_is_no_secret() -> None:
    assert masked({"a": [{"password": "x", "key": "etc/a.key", "keys": 5}]}) == {
        "a": [{"password": MASK, "key": "etc/a.key", "keys": 5}]
    }


def test_programs_are_shown_without_their_arguments_and_urls_without_their_users() -> None:
    ha = {"on_promote": ["/bin/move", "--token", "t0ken"], "etcd": {"endpoints": ["https://u:p4ss@10.0.0.1:2379"]}}
    assert masked({"hooks": [{"on": ["worker"], "run": ["/bin/page", "t0ken"]}], "ha": ha}) == {
        "hooks": [{"on": ["worker"], "run": ["/bin/page", MASK]}],
        "ha": {"on_promote": ["/bin/move", MASK, MASK], "etcd": {"endpoints": [f"https://{MASK}@10.0.0.1:2379"]}},
    }


@pytest.mark.parametrize("secret", [b"a" * 64, b"b" * 32, b"c" * 40, b"short one", b"with-a-sign" * 4])
@pytest.mark.parametrize("place", [b"%s", b"x%sy", b"key=%s,", b"zzzz%s0", b"%s-%s"])
def test_secret_is_found_wherever_it_stands(secret: bytes, place: bytes) -> None:
    search = SecretSearch([b"a" * 64, b"b" * 32, b"c" * 40, b"short one", b"with-a-sign" * 4])
    text = b"0123456789abcdef" * 4 + b" a line\n" + place.replace(b"%s", secret) + b"\n"
    assert search.finds_in(text)
    assert not search.finds_in(text.replace(secret, secret[1:-1]))


def test_every_child_of_a_node_is_asked_for_its_stacks() -> None:
    """The processes that fork from the supervisor answer SIGUSR2; those of the framework do not."""
    source = Path(__file__, "../../../clusterd/supervisor/plan.py").resolve().read_text()
    names = set(re.findall(r'ChildSpec\(f?"([^"]+)"', source))
    assert {"net", "election", "pool-{slot}"} <= names
    assert [name for name in names if not CHILDREN.fullmatch(name.replace("{slot}", "1"))] == []
