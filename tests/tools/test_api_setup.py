"""An operator enables the REST API and adds users; mistakes are reported before anything starts."""

import ipaddress
import json
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from clusterd import rights
from clusterd.config.loading import load
from clusterd.errors import ClusterError
from clusterd.messages.replica import Mark, Marked
from clusterd.rundir import replica_socket
from clusterd.users import FILE_MODE, USERS_FILE, read_users
from clusterd.wdb.replica import ReplicaStore
from tools.cli import cluster

KEY = "0123456789abcdef0123456789abcdef"
PASSWORD = "correct horse battery"


def clusterd(root: Path, *arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(cluster, ["--root", str(root), *arguments], input=given, env={"CLUSTERD_KEY": KEY})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "m"
    done = clusterd(made, "init", "--type", "master", "--name", "m", "--port", "15160", "--bind", "127.0.0.1", "--api")
    assert done.exit_code == 0, done.output
    return made


def problems(root: Path) -> list[str]:
    return [str(problem) for problem in load(str(root)).problems]


def test_init_with_api_makes_all_that_it_needs(root: Path) -> None:
    loaded = load(str(root))
    assert loaded.settings is not None
    assert loaded.settings.clusterd.api.enabled
    assert stat.S_IMODE((root / "etc/clusterd-api.key").stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate((root / "etc/clusterd-api.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert ipaddress.ip_address("127.0.0.1") in names.get_values_for_type(x509.IPAddress)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    ("owner", "group", "expected"),
    [(1234, 4321, (1234, 4321)), (0, 0, (65534, 65533)), (0, 4321, (65534, 4321))],
)
def test_files_that_root_makes_can_be_read_by_the_daemon(
    root: Path, monkeypatch: pytest.MonkeyPatch, owner: int, group: int, expected: tuple[int, int]
) -> None:
    """`etc` belongs to the daemon, or to root, as some packages make it, perhaps with a group of the daemon's."""
    daemon = pwd.struct_passwd(("wazuh", "x", 65534, 65533, "", "/", "/"))
    monkeypatch.setattr(rights.pwd, "getpwnam", lambda name: daemon)
    made = ("etc/cluster.json", "etc/clusterd-api.crt", "etc/clusterd-api.key", USERS_FILE)
    for name in made[:3]:
        (root / name).unlink()
    os.chown(root / "etc", owner, group)
    assert clusterd(root, "api", "enable").exit_code == 0
    assert clusterd(root, "api", "user", "add", "op", "--password-file", "-", given=PASSWORD).exit_code == 0
    owners = {name: (found.st_uid, found.st_gid) for name in made if (found := (root / name).stat())}
    assert owners == dict.fromkeys(made, expected)


@pytest.mark.slow
def test_a_users_password_is_in_no_file_and_no_output(root: Path) -> None:
    done = clusterd(root, "api", "user", "add", "op", "--password-file", "-", given=PASSWORD + "\n")
    assert (done.exit_code, done.output) == (0, "Added the user op.\n")
    assert stat.S_IMODE((root / USERS_FILE).stat().st_mode) == FILE_MODE
    assert PASSWORD not in (root / USERS_FILE).read_text()
    asked = clusterd(root, "api", "user", "add", "other", given=f"{PASSWORD}\n{PASSWORD}\n")
    assert asked.exit_code == 0
    assert PASSWORD not in asked.output
    assert set(read_users(str(root))) == {"op", "other"}
    listed = clusterd(root, "api", "user", "list", "--json")
    assert [sorted(one) for one in json.loads(listed.output)] == [["changed_at", "name", "role"]] * 2
    assert clusterd(root, "api", "user", "remove", "op").exit_code == 0
    assert set(read_users(str(root))) == {"other"}


@pytest.mark.slow
def test_a_users_role_is_given_changed_and_shown(root: Path) -> None:
    def add(name: str, *options: str) -> None:
        done = clusterd(root, "api", "user", "add", name, *options, "--password-file", "-", given=PASSWORD)
        assert done.exit_code == 0, done.output

    def roles() -> dict[str, str]:
        return {name: user.role for name, user in read_users(str(root)).items()}

    add("op")
    add("ann", "--role", "reader")
    assert roles() == {"op": "admin", "ann": "reader"}
    assert "ann  reader  (password set" in clusterd(root, "api", "user", "list").output
    add("ann")
    assert roles()["ann"] == "reader", "a new password gives no rights"
    done = clusterd(root, "api", "user", "role", "ann", "admin")
    assert (done.exit_code, done.output) == (0, "The user ann has the role admin.\n")
    add("op", "--role", "reader")
    assert roles() == {"op": "reader", "ann": "admin"}
    for words in (("role", "nobody", "admin"), ("role", "ann", "king"), ("add", "x", "--role", "king")):
        assert clusterd(root, "api", "user", *words).exit_code != 0
    assert roles() == {"op": "reader", "ann": "admin"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Marked(is_kept=True), ""),
        (Marked(), ""),
        (Marked(why="no candidate is connected"), "No candidate has confirmed that, it may be lost with this node: no"),
        (ClusterError(1000, "this node's store did not answer"), "did not answer"),
    ],
)
def test_change_of_a_user_waits_for_a_candidate(
    root: Path, monkeypatch: pytest.MonkeyPatch, answer: Marked | ClusterError, says: str
) -> None:
    asked: list[object] = []

    async def ask(store: object, request: object, timeout_s: float) -> bytes:
        asked.append(request)
        if isinstance(answer, ClusterError):
            raise answer
        return msgspec.msgpack.encode(answer)

    monkeypatch.setattr(ReplicaStore, "ask", ask)
    add = ("api", "user", "add", "op", "--password-file", "-")
    assert clusterd(root, *add, given=PASSWORD).output == "Added the user op.\n"
    assert asked == [], "this node does not run"
    Path(replica_socket(str(root))).parent.mkdir(parents=True, exist_ok=True)
    Path(replica_socket(str(root))).touch()
    outputs = [
        clusterd(root, *words, given=PASSWORD).output.splitlines()
        for words in (("api", "user", "role", "op", "reader"), add, ("api", "user", "remove", "op"))
    ]
    assert asked == [Mark()] * 3
    for _, *more in outputs:
        assert says in "".join(more) if says else not more


@pytest.mark.parametrize(
    ("name", "password", "says"),
    [
        ("op", "short", "a password has 8 to 256 characters"),
        ("op", "with a\ttab inside", "printable"),
        ("o p", PASSWORD, "a user's name has 1 to 64"),
        ("../x", PASSWORD, "a user's name has 1 to 64"),
    ],
)
def test_users_that_cannot_be_are_refused(root: Path, name: str, password: str, says: str) -> None:
    done = clusterd(root, "api", "user", "add", name, "--password-file", "-", given=password)
    assert done.exit_code == 1
    assert says in done.output
    assert read_users(str(root)) == {}


@pytest.mark.slow
def test_world_readable_users_are_refused_with_the_remedy(root: Path) -> None:
    clusterd(root, "api", "user", "add", "op", "--password-file", "-", given=PASSWORD)
    (root / USERS_FILE).chmod(0o644)
    done = clusterd(root, "api", "user", "list")
    assert done.exit_code == 1
    assert f"chmod 640 {root / USERS_FILE}" in done.output
    (root / USERS_FILE).chmod(0o640)
    assert clusterd(root, "api", "user", "list").exit_code == 0


def _gone(root: Path) -> None:
    (root / "etc/clusterd-api.crt").unlink()


def _junk(root: Path) -> None:
    (root / "etc/clusterd-api.crt").write_text("no certificate\n")


def _another_key(root: Path) -> None:
    clusterd(root.parent / "n", "init", "--type", "master", "--name", "n", "--port", "15161", "--api")
    (root / "etc/clusterd-api.key").write_bytes((root.parent / "n/etc/clusterd-api.key").read_bytes())


def _open_key(root: Path) -> None:
    (root / "etc/clusterd-api.key").chmod(0o644)


def _locked_key(root: Path) -> None:
    path = root / "etc/clusterd-api.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (_gone, "clusterd.api.cert: this file is not there"),
        (_junk, "must be in PEM format"),
        (_another_key, "does not belong to the certificate"),
        (_open_key, "every user of this machine may read this key: chmod 600"),
        (_locked_key, "has a passphrase"),
    ],
    ids=["gone", "junk", "another key", "open key", "locked key"],
)
def test_a_certificate_that_cannot_be_used_is_a_mistake_of_the_configuration(
    root: Path, break_it: Callable[[Path], None], says: str
) -> None:
    break_it(root)
    (problem,) = problems(root)
    assert says in problem
    done = clusterd(root, "check-config")
    assert done.exit_code == 2
    assert says in done.output


def test_enabling_again_makes_the_certificate_that_is_missing(root: Path) -> None:
    for name in ("crt", "key"):
        (root / f"etc/clusterd-api.{name}").unlink()
    assert len(problems(root)) == 2
    done = clusterd(root, "api", "enable", "--port", "55443")
    assert done.exit_code == 0, done.output
    assert problems(root) == []
    loaded = load(str(root)).settings
    assert loaded is not None
    assert loaded.clusterd.api.port == 55443


def test_enabling_never_overwrites_half_a_certificate(root: Path) -> None:
    (root / "etc/clusterd-api.crt").unlink()
    before = (root / "etc/clusterd-api.key").read_bytes()
    done = clusterd(root, "api", "enable")
    assert done.exit_code == 1
    assert "is there" in done.output
    assert (root / "etc/clusterd-api.key").read_bytes() == before
    assert not (root / "etc/clusterd-api.crt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_turning_it_on_ends_with_the_next_step_and_the_real_address(root: Path, host: str, shown: str) -> None:
    path = root / "etc/cluster.json"
    content = json.loads(path.read_text())
    content["clusterd"]["api"]["host"] = host
    path.write_text(json.dumps(content))
    lines = clusterd(root, "api", "enable", "--port", "55123").output.splitlines()
    assert lines[-3:] == [
        f"It is on after: clusterd --root {root} restart",
        f"Nobody may use it yet: clusterd --root {root} api user add NAME",
        f"Then: https://{shown}:55123/docs",
    ]
    clusterd(root, "api", "user", "add", "op", "--password-file", "-", given=PASSWORD + "\n")
    assert "api user add" not in clusterd(root, "api", "enable").output
