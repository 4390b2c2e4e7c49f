"""The same seed gives the same tree, trees look like a manager's, and comparing them finds every kind of difference."""

import hashlib
import os
import statistics
from pathlib import Path

import pytest

from tools.rig import peer_files, workload
from tools.rig.compare import compare, mode_of
from tools.rig.workload import Summary


def digest_of(root: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        whole.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def equal_pair(tmp_path: Path) -> tuple[Path, Path]:
    """A master, and a worker as a sync leaves it."""
    master, worker = tmp_path / "m", tmp_path / "w"
    for root in (master, worker):
        workload.generate(root, seed=1, agents=20, groups=2)
    for path in workload.paths(worker):
        (worker / path).chmod(mode_of(path))
    return master, worker


@pytest.mark.slow
def test_same_seed_same_tree_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        workload.generate(tmp_path / name, seed=seed, files=300, size=500)
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b") != digest_of(tmp_path / "c")


def test_small_set_has_keys_groups_rules_decoders_lists_and_multigroups(tmp_path: Path) -> None:
    summary = workload.generate(tmp_path, agents=120, groups=5)
    assert len((tmp_path / "etc/client.keys").read_text().splitlines()) == 120
    assert {p.name for p in (tmp_path / "etc/shared").iterdir() if p.is_dir()} == set(workload.GROUPS[:5])
    for path in ("etc/shared/default/agent.conf", "etc/shared/default/merged.mg", "etc/shared/ar.conf"):
        assert (tmp_path / path).stat().st_size
    kinds = {path.split("/")[1] for path in workload.paths(tmp_path)}
    assert kinds == {"client.keys", "shared", "rules", "decoders", "lists", "multigroups"}
    assert "etc/shared/ar.conf" not in workload.paths(tmp_path)
    assert summary.files == len(peer_files.scan(tmp_path))


@pytest.mark.slow
def test_many_files_have_the_number_and_the_mean_size_asked_for(tmp_path: Path) -> None:
    summary = workload.generate(tmp_path, files=3000, size=4000)
    assert summary.files == 3000
    sizes = [path.stat().st_size for path in tmp_path.rglob("file_*")]
    assert 3600 < statistics.mean(sizes) < 4400
    assert statistics.median(sizes) < 0.75 * statistics.mean(sizes)


def test_fewer_files_than_the_realistic_set_are_possible(tmp_path: Path) -> None:
    assert workload.generate(tmp_path, files=7).files == 7


def test_change_edits_adds_and_deletes_as_many_as_asked(tmp_path: Path) -> None:
    workload.generate(tmp_path, agents=5, groups=2)
    before = peer_files.scan(tmp_path)
    done = workload.change(tmp_path, seed=3, edit=4, add=3, delete=2)
    after = peer_files.scan(tmp_path)
    assert {c.path for c in done if c.kind == "add"} == set(after) - set(before)
    assert {c.path for c in done if c.kind == "delete"} == set(before) - set(after)
    edited = {path for path in after if path in before and after[path]["hash"] != before[path]["hash"]}
    assert {c.path for c in done if c.kind == "edit"} == edited
    assert [len([c for c in done if c.kind == kind]) for kind in ("edit", "add", "delete")] == [4, 3, 2]


def test_client_keys_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/client.keys").write_text("001 a any b\n")
    assert workload.change(tmp_path, seed=1, edit=0, add=0, delete=5) == []
    assert (tmp_path / "etc/client.keys").exists()


def test_tampering_hides_behind_size_and_time(tmp_path: Path) -> None:
    workload.generate(tmp_path, agents=5, groups=2)
    before = {path: (os.stat(tmp_path / path), (tmp_path / path).read_bytes()) for path in workload.paths(tmp_path)}
    done = workload.tamper(tmp_path, seed=2)
    assert [change.kind for change in done] == ["edit", "delete", "add"]
    stat, content = before[done[0].path]
    now = os.stat(tmp_path / done[0].path)
    assert (now.st_size, now.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert (tmp_path / done[0].path).read_bytes() != content
    assert [change.kind for change in workload.tamper(tmp_path / "empty", seed=2)] == ["add"]


def test_ruleset_layout_is_mapped_below_etc_and_left_alone(tmp_path: Path) -> None:
    source = tmp_path / "ruleset"
    for path in ("rules/0010-a.xml", "decoders/b.xml", "lists/amazon/c", "sca/debian/d.yml", "e.txt", "client.keys"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(path)
    (source / "rules/link.xml").symlink_to("0010-a.xml")
    before = digest_of(source)
    summary = workload.copy_tree(source, tmp_path / "node")
    assert workload.paths(tmp_path / "node") == [
        "etc/client.keys",
        "etc/decoders/b.xml",
        "etc/lists/amazon/c",
        "etc/rules/0010-a.xml",
        "etc/shared/default/e.txt",
        "etc/shared/sca/debian/d.yml",
    ]
    assert summary == Summary(6, sum(p.stat().st_size for p in source.rglob("*") if p.is_file() and not p.is_symlink()))
    assert digest_of(source) == before


def test_node_layout_is_kept_unchanged(tmp_path: Path) -> None:
    source = tmp_path / "node1"
    workload.generate(source, agents=3, groups=2)
    (source / "etc/ossec.conf").write_text("<ossec_config/>")
    workload.copy_tree(source, tmp_path / "node2")
    assert peer_files.scan(source).keys() == peer_files.scan(tmp_path / "node2").keys()
    assert not (tmp_path / "node2/etc/ossec.conf").exists()


def test_tree_without_anything_to_synchronise_is_refused(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(ValueError, match="holds no file"):
        workload.copy_tree(tmp_path / "src", tmp_path / "node")


def test_equal_nodes_compare_equal(tmp_path: Path) -> None:
    master, worker = equal_pair(tmp_path)
    (worker / "etc/shared/ar.conf").write_text("local matter")
    found = compare(master, worker)
    assert found.is_equal
    assert found.equal == found.total == len(workload.paths(master))


def test_comparison_names_every_kind_of_difference(tmp_path: Path) -> None:
    master, worker = equal_pair(tmp_path)
    tampered, removed, planted = workload.tamper(worker, seed=1)
    wrong = next(path for path in workload.paths(worker) if path not in (tampered.path, planted.path))
    (worker / wrong).chmod(0o644)
    (worker / "etc/rules/.clusterd-0.tmp").write_text("half")
    (worker / "etc/.clusterd-1.tmp").write_text("half")
    found = compare(master, worker)
    assert (found.missing, found.differing, found.extra) == ([removed.path], [tampered.path], [planted.path])
    assert found.wrong_mode == [f"{wrong}: 0644 instead of {mode_of(wrong):04o}"]
    assert found.leftover == ["etc/.clusterd-1.tmp", "etc/rules/.clusterd-0.tmp"]
    assert not found.is_equal
    assert len(list(found.lines())) == 6


def test_a_file_rewritten_with_its_size_and_time_is_found_twice_in_a_row(tmp_path: Path) -> None:
    """filecmp, used once, answered the second question from its cache of sizes and times."""
    master, worker = equal_pair(tmp_path)
    assert compare(master, worker).is_equal
    tampered = workload.tamper(worker, seed=4)[0].path
    assert compare(master, worker).differing == [tampered]
