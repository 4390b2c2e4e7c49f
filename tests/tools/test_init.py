"""`clusterd init`: a node's tree and configuration, never overwritten, the key never shown."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from clusterd.config.loading import load
from tools.check import check
from tools.init_node import DIRECTORIES, InitRefused, Made, init_node

KEY = "0123456789abcdef0123456789abcdef"


def make(root: Path, **changes: Any) -> Made:
    arguments: dict[str, Any] = {
        "node_type": "master",
        "name": "m",
        "cluster": "wazuh",
        "key_file": None,
        "environment_key": None,
        "port": None,
        "bind": "0.0.0.0",
        "master": None,
    }
    arguments.update(changes)
    return init_node(str(root), **arguments)


def test_a_new_master_has_its_tree_a_good_configuration_and_a_new_key(tmp_path: Path) -> None:
    root = tmp_path / "d" / "m"
    made = make(root)
    loaded = load(str(root))
    assert loaded.settings is not None
    assert [line for line in check(str(root)).lines if "runs as root" not in line] == []
    assert all((root / directory).is_dir() for directory in DIRECTORIES)
    assert loaded.settings.log_level == 0
    assert (root / "etc/internal_options.conf").read_text().endswith("wazuh_clusterd.debug=0\n")
    key = loaded.settings.cluster.key.value.decode()
    assert len(key) == 32
    assert not [line for line in made.lines if key in line]
    assert "--key-file" in "\n".join(made.lines)
    assert stat.S_IMODE(os.stat(root / "etc/ossec.conf").st_mode) == 0o640


def test_two_masters_get_different_keys(tmp_path: Path) -> None:
    keys = set()
    for name in ("a", "b"):
        make(tmp_path / name)
        loaded = load(str(tmp_path / name))
        assert loaded.settings is not None
        keys.add(loaded.settings.cluster.key.value)
    assert len(keys) == 2


def test_a_worker_takes_the_key_from_a_file_or_the_environment_and_the_port_of_its_master(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    make(tmp_path / "w1", node_type="worker", name="w1", key_file=str(tmp_path / "key"), master="127.0.0.1:15160")
    make(tmp_path / "w2", node_type="worker", name="w2", environment_key=KEY, master="[::1]")
    for name, port, nodes in (("w1", 15160, ("127.0.0.1",)), ("w2", 1516, ("[::1]",))):
        loaded = load(str(tmp_path / name))
        assert loaded.settings is not None
        cluster = loaded.settings.cluster
        assert (cluster.node_type, cluster.key.value.decode(), cluster.port, cluster.nodes) == (
            "worker",
            KEY,
            port,
            nodes,
        )


def test_a_masters_node_is_its_bind_address(tmp_path: Path) -> None:
    make(tmp_path / "m", bind="127.0.0.1", port=15160)
    loaded = load(str(tmp_path / "m"))
    assert loaded.settings is not None
    assert loaded.settings.cluster.nodes == ("127.0.0.1",)
    assert loaded.settings.cluster.bind_addr == "127.0.0.1"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "../x"}, "node name"),
        ({"cluster": "my cluster"}, "one word"),
        ({"environment_key": "short"}, "CLUSTERD_KEY is not a cluster key"),
        ({"key_file": "/nonexistent/key"}, "cannot be read"),
        ({"master": "10.0.0.1"}, "for workers"),
        ({"bind": "a b"}, "not an address"),
        ({"node_type": "worker", "environment_key": KEY}, "--master"),
        ({"node_type": "worker", "master": "10.0.0.1"}, "--key-file FILE or the environment variable"),
        ({"node_type": "worker", "environment_key": KEY, "master": "localhost"}, "reserved"),
        ({"node_type": "worker", "environment_key": KEY, "master": "h:80"}, "out of range"),
        ({"node_type": "worker", "environment_key": KEY, "master": "h:2000", "port": 2001}, "two ports"),
    ],
)
def test_bad_arguments_are_refused_and_change_nothing(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InitRefused, match=text):
        make(tmp_path / "n", **changes)
    assert not (tmp_path / "n").exists()


def test_a_second_init_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path / "m")
    before = (tmp_path / "m/etc/ossec.conf").read_bytes()
    with pytest.raises(InitRefused, match="exists already"):
        make(tmp_path / "m", name="other")
    assert (tmp_path / "m/etc/ossec.conf").read_bytes() == before


def test_a_root_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InitRefused, match="too long"):
        make(tmp_path / ("x" * 100))


def test_existing_options_and_directories_are_kept(tmp_path: Path) -> None:
    (tmp_path / "m/etc/rules").mkdir(parents=True, mode=0o755)
    (tmp_path / "m/etc/internal_options.conf").write_text("wazuh_clusterd.debug=2\n")
    make(tmp_path / "m")
    assert (tmp_path / "m/etc/internal_options.conf").read_text() == "wazuh_clusterd.debug=2\n"
    assert stat.S_IMODE(os.stat(tmp_path / "m/etc/rules").st_mode) == 0o755


def test_disk_that_is_full_at_any_file_leaves_nothing_that_hinders_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of which nothing could be written would be taken for one that must not be overwritten."""
    root, real = tmp_path / "m", os.fchmod
    for full in ("internal_options.conf", "clusterd-api.key", "clusterd-api.crt", "ossec.conf"):

        def fchmod(fd: int, mode: int, full: str = full) -> None:
            if os.readlink(f"/proc/self/fd/{fd}").endswith(full):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(fd, mode)

        monkeypatch.setattr(os, "fchmod", fchmod)
        with pytest.raises(OSError, match="No space left"):
            make(root, with_api=True)
        assert not (root / "etc/ossec.conf").exists()
        assert all(path.stat().st_size for path in (root / "etc").iterdir() if path.is_file())
    monkeypatch.undo()
    make(root, with_api=True)
    assert check(str(root)).ok
