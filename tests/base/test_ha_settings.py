"""`clusterd.ha` of cluster.json: valid values, and for every mistake a message with what to do (docs/ha.md)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clusterd.config import ha as reader
from clusterd.config.loading import Loaded, load
from clusterd.settings import EtcdSettings, HaSettings
from tests.election.certificates import Authority
from tools.check import check
from tools.support import masked, secrets_of

CONF = (
    "<ossec_config><cluster><name>{}</name><node_name>n</node_name><key>{}</key><nodes><node>n</node></nodes></cluster>"
    "</ossec_config>"
)
URL = "http://127.0.0.1:2379"
LEAST: dict[str, Any] = {"enabled": True, "advertise": "10.0.0.1:1516", "etcd": {"endpoints": [URL]}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ossec.conf").write_text(CONF.format("wazuh", "k" * 32))
    return tmp_path


def loaded(root: Path, ha: dict[str, Any], **own: Any) -> Loaded:
    (root / "etc/cluster.json").write_text(json.dumps({"clusterd": own | {"ha": ha}}))
    return load(str(root))


def texts(root: Path, ha: dict[str, Any], **own: Any) -> str:
    return "\n".join(str(one) for one in loaded(root, ha, **own).problems)


def with_etcd(**etcd: Any) -> dict[str, Any]:
    return LEAST | {"etcd": LEAST["etcd"] | etcd}


def test_everything_that_is_written_is_taken(root: Path) -> None:
    password = root / "etc/etcd.pass"
    password.write_text("secret\n")
    password.chmod(0o600)
    Authority(root, "ca")
    authority = Authority(root / "etc", "a")
    cert, key = authority.issue("node", "127.0.0.1")
    written = {
        "enabled": True,
        "etcd": {
            "endpoints": ["https://etcd-1", "https://[::1]:2399/"],
            "ca": str(authority.ca),
            "cert": "etc/node.crt",
            "key": "etc/node.key",
            "user": "clusterd",
            "password_file": "etc/etcd.pass",
        },
        "prefix": "/siem/a",
        "lease": 30,
        "advertise": "node-1:1517",
        "priority": 0,
        "failsafe": True,
        "max_lag": 5,
        "synchronous": False,
        "on_promote": ["/bin/true", "up"],
        "on_demote": ["/bin/true"],
    }
    found = loaded(root, written)
    assert found.problems == []
    assert found.settings is not None
    etcd = EtcdSettings(
        ("https://etcd-1:2379", "https://[::1]:2399"),
        str(authority.ca),
        str(cert),
        str(key),
        "clusterd",
        str(password),
    )
    assert found.settings.clusterd.ha == HaSettings(
        True, False, 5, True, etcd, "/siem/a", 30, "node-1:1517", 0, True, 5, ("/bin/true", "up"), ("/bin/true",)
    )
    assert found.settings.ha_prefix == "/siem/a"


def test_least_settings_have_a_replica_and_a_prefix_of_the_cluster(root: Path) -> None:
    found = loaded(root, LEAST)
    assert found.problems == []
    assert found.settings is not None
    assert found.settings.clusterd.ha.replica
    assert found.settings.ha_prefix == "/clusterd/wazuh"
    assert not found.settings.has_election  # before it is known who serves the store


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"replica": False}, "ha.replica"),
        ({"enabled": 1}, "ha.enabled"),
        ({"etcd": {}}, "ha.etcd.endpoints: the election needs etcd"),
        ({"etcd": {"endpoints": []}}, "ha.etcd.endpoints"),
        ({"etcd": {"endpoints": URL}}, "ha.etcd.endpoints"),
        ({"etcd": {"endpoints": ["127.0.0.1:2379"]}}, "ha.etcd.endpoints"),
        ({"etcd": {"endpoints": [URL + "/v3"]}}, "ha.etcd.endpoints"),
        ({"etcd": {"endpoints": ["http://127.0.0.1:99999"]}}, "ha.etcd.endpoints"),
        ({"etcd": {"endpoints": [URL, URL + "/"]}}, "ha.etcd.endpoints"),
        ({"etcd": {"endpoints": [5]}}, "ha.etcd.endpoints"),
        ({"advertise": ""}, "ha.advertise"),
        ({"advertise": "10.0.0.1"}, "ha.advertise"),
        ({"advertise": "0.0.0.0:1516"}, "ha.advertise"),
        ({"advertise": "node/1:1516"}, "ha.advertise"),
        ({"prefix": "siem"}, "ha.prefix"),
        ({"prefix": "/"}, "ha.prefix"),
        ({"prefix": "/siem/"}, "ha.prefix"),
        ({"lease": 4}, "ha.lease"),
        ({"lease": 15.5}, "ha.lease"),
        ({"priority": -1}, "ha.priority"),
        ({"max_lag": -1}, "ha.max_lag"),
        ({"failsafe": "yes"}, "ha.failsafe"),
        ({"on_promote": "/bin/true"}, "ha.on_promote"),
        ({"on_demote": ["true"]}, "ha.on_demote"),
        (with_etcd(user="me"), "a user needs a password"),
        (with_etcd(password_file="etc/none"), "etc/none cannot be read: No such file"),
        (with_etcd(cert="etc/none"), "a certificate needs its key"),
        (with_etcd(ca="etc/none"), "uses no TLS"),
        (with_etcd(ca="etc/none"), "etc/none is not there"),
        (with_etcd(ca="etc/ossec.conf"), "etc/ossec.conf cannot be used"),
        (with_etcd(cert="etc/none", key="etc/ossec.conf"), "ha.etcd.cert: the certificate"),
    ],
)
def test_mistake_is_named_with_its_key(root: Path, change: dict[str, Any], where: str) -> None:
    assert where in texts(root, LEAST | change)


def test_election_needs_the_own_store_and_a_prefix_where_the_clusters_name_has_a_slash(root: Path) -> None:
    assert "clusterd.ha.enabled: a replica needs clusterd's own store" in texts(root, LEAST, store="off")
    (root / "etc/ossec.conf").write_text(CONF.format("a/b", "k" * 32))
    assert "the cluster's name has a slash" in texts(root, LEAST)
    assert texts(root, LEAST | {"prefix": "/x"}) == ""


def test_nothing_is_asked_of_etcd_while_the_election_is_off(root: Path) -> None:
    assert texts(root, with_etcd(user="me", ca="etc/none") | {"enabled": False}) == ""


def test_password_in_a_url_is_refused_and_not_shown(root: Path) -> None:
    text = texts(root, with_etcd(endpoints=["https://me:hunter2@10.0.0.1:2379"]))
    assert "ha.etcd.endpoints" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("mode", "content", "text"),
    [
        (0o644, b"secret\n", "chmod 600"),
        (0o660, b"secret\n", "chmod 600"),
        (0o640, b"secret\n", ""),
        (0o600, b"secret", ""),
        (0o600, b"", "one line with a password"),
        (0o600, b"two\nlines\n", "one line with a password"),
        (0o600, b"x" * 2000, "one line with a password"),
        (0o600, b"\xff\xfe", "no UTF-8"),
    ],
)
def test_password_file_is_for_the_daemon_alone_and_holds_one_line(
    root: Path, mode: int, content: bytes, text: str
) -> None:
    file = root / "etc/etcd.pass"
    file.write_bytes(content)
    file.chmod(mode)
    found = texts(root, with_etcd(user="me", password_file="etc/etcd.pass"), owner="root")
    assert text in found
    assert bool(found) == bool(text)
    assert "secret" not in found


def test_invalid_password_file_or_one_of_another_user_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ha = with_etcd(user="me", password_file="etc/etcd.pass")
    (root / "etc/etcd.pass").mkdir()
    assert "is no file" in texts(root, ha)
    (root / "etc/etcd.pass").rmdir()
    (root / "etc/etcd.pass").write_text("secret")
    (root / "etc/etcd.pass").chmod(0o600)
    monkeypatch.setattr(reader, "_daemon", lambda owner: (os.geteuid() + 1, {12345}))
    if os.geteuid():
        assert "belongs to another user" in texts(root, ha)
    assert "the daemon's user may not read" in texts(root, ha)


def test_etcd_without_tls_on_another_machine_is_warned_about(root: Path) -> None:
    found = loaded(root, with_etcd(endpoints=["http://10.0.0.9:2379", "http://[::1]:1", "http://localhost:1"]))
    assert [one.where for one in found.warnings] == ["clusterd.ha.etcd.endpoints"]
    assert "http://10.0.0.9:2379" in found.warnings[0].text


def test_programs_that_others_may_replace_are_named(root: Path) -> None:
    program = root / "move"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    loaded(root, LEAST | {"on_promote": [str(program)], "on_demote": ["/nowhere"]})
    lines = "\n".join(check(str(root)).lines)
    assert f"clusterd.ha.on_promote: others than root and the daemon's user may write {program}" in lines
    assert "clusterd.ha.on_demote: /nowhere cannot be run" in lines


def test_password_and_key_of_etcd_are_secrets_of_the_archive_for_helpers(root: Path) -> None:
    (root / "etcd.secret").write_text("a-long-password\n")
    (root / "etcd.secret").chmod(0o600)
    ha = with_etcd(user="me", password_file="etcd.secret")
    assert loaded(root, ha, owner="root").problems == []
    assert b"a-long-password" in secrets_of(str(root))
    assert masked({"password_file": "etc/x"}) == {"password_file": "etc/x"}
