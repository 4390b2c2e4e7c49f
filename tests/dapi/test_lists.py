import os
import stat
from pathlib import Path
from typing import Any

import pytest

from clusterd.dapi.functions import lists
from clusterd.dapi.ruleset.cdb import entries, is_list
from clusterd.wire.results import WireException, dump_json
from tests.dapi.ruleset_node import RulesetNode, codes

MODULE = "wazuh.cdb_list"
TEXT = 'one:1\n"a:b":"c:d"\nempty:\n'


@pytest.fixture
def node(tmp_path: Path) -> RulesetNode:
    return RulesetNode(tmp_path)


def upload(node: RulesetNode, name: str, content: str = TEXT, **given: Any) -> Any:
    return node.items(MODULE, "upload_list_file", filename=name, content=content, **given)


def delete(node: RulesetNode, name: str) -> Any:
    return node.items(MODULE, "delete_list_file", filename=name)


# ---- the text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["a:", "a:b", '"a:b":', 'a:"b:c"', '"a b":c d', 'a:say "hi"', "10.0.0.:x", "a:\tb"])
def test_a_line_has_a_key_and_perhaps_a_value(line: str) -> None:
    assert is_list(line)
    assert is_list(f"\n{line}\n\nother:1\n")


@pytest.mark.parametrize(
    "line",
    ["a", ":b", '"":b', "a:b:c", "a: http://b", '"a:b', 'a:"b', '"a":"b":c', "a:b\0", "a\x07:b", "a\r:b", '"a"x:b'],
)
def test_a_colon_outside_of_quotes_makes_no_list(line: str) -> None:
    assert not is_list(line)
    assert not is_list(f"good:1\n{line}\n")


def test_nothing_is_no_list() -> None:
    assert not is_list("\n \n")


def test_entries_are_without_quotes() -> None:
    assert entries(TEXT) == [("one", "1"), ("a:b", "c:d"), ("empty", "")]


def test_of_lines_that_are_not_quite_right_entries_keep_what_they_can() -> None:
    text = "\ufeffkey:# see https://there\r\nno colon\n:no key\ntwice:1\ntwice:2\nlast:"
    assert entries(text) == [("key", "# see https://there"), ("twice", "1"), ("twice", "2"), ("last", "")]


# ---- listing ---------------------------------------------------------------------------------------------------------


def test_lists_are_found_in_all_directories_below(node: RulesetNode) -> None:
    for path in ("etc/lists/a", "etc/lists/team/b", "ruleset/lists/c"):
        node.write(path, TEXT)
    for path in ("etc/lists/a.cdb", "etc/lists/a~", "etc/lists/.a.swp", "etc/lists/.hidden/x"):
        node.write(path, TEXT)
    items = node.items(MODULE, "get_path_lists")
    assert items.affected == [
        {"relative_dirname": "etc/lists", "filename": "a"},
        {"relative_dirname": "etc/lists/team", "filename": "b"},
        {"relative_dirname": "ruleset/lists", "filename": "c"},
    ]
    assert items.total_affected == 3


def test_lists_are_filtered_and_paged(node: RulesetNode) -> None:
    for path in ("etc/lists/a", "etc/lists/b", "etc/lists/team/c"):
        node.write(path, TEXT)

    def names(**given: object) -> list[str]:
        return [row["filename"] for row in node.items(MODULE, "get_path_lists", **given).affected]

    assert names(filename=["c", "none"]) == ["c"]
    assert names(relative_dirname="etc/lists/team/") == ["c"]
    assert names(sort_by=["filename"], sort_ascending=False, offset=1, limit=1) == ["b"]
    assert names(search_text="TEAM") == ["c"]


def test_lists_are_shown_with_their_entries(node: RulesetNode) -> None:
    node.write("etc/lists/a", TEXT)
    items = node.items(MODULE, "get_lists")
    pairs = [{"key": "one", "value": "1"}, {"key": "a:b", "value": "c:d"}, {"key": "empty", "value": ""}]
    assert items.affected == [{"items": pairs, "relative_dirname": "etc/lists", "filename": "a"}]
    dump_json(items.wire())


def test_lists_are_searched_in_their_entries(node: RulesetNode) -> None:
    node.write("etc/lists/a", "red:1\n")
    node.write("etc/lists/b", "green:1\n")
    assert [row["filename"] for row in node.items(MODULE, "get_lists", search_text="green").affected] == ["b"]
    assert [row["filename"] for row in node.items(MODULE, "get_lists", q="items.key=red").affected] == ["a"]
    selected = node.items(MODULE, "get_lists", select=["filename"], filename=["a"]).affected
    assert selected == [{"relative_dirname": "etc/lists", "filename": "a"}]


def test_a_node_without_lists_has_none(node: RulesetNode) -> None:
    (node.root / "etc/lists").rmdir()
    for function in ("get_lists", "get_path_lists"):
        items = node.items(MODULE, function)
        assert (items.affected, items.total_affected, codes(items)) == ([], 0, {})


def test_a_huge_list_fails_alone(node: RulesetNode) -> None:
    node.write("etc/lists/small", TEXT)
    with node.write("etc/lists/huge", "").open("wb") as file:
        file.truncate(1 << 40)
    items = node.items(MODULE, "get_lists")
    assert [row["filename"] for row in items.affected] == ["small"]
    assert codes(items) == {"etc/lists/huge": 1803}
    assert codes(node.items(MODULE, "get_list_file", filename="huge")) == {"huge": 1803}


def test_more_than_an_answer_holds_is_1803(node: RulesetNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "LARGEST_ANSWER", len(TEXT) * 2)
    for name in "abc":
        node.write(f"etc/lists/{name}", TEXT)
    assert len(node.items(MODULE, "get_lists", filename=["a", "b"]).affected) == 2
    with pytest.raises(WireException) as caught:
        node.items(MODULE, "get_lists")
    assert caught.value.code == 1803


def test_links_are_no_lists(node: RulesetNode) -> None:
    outside = node.root.parent / f"{node.root.name}-outside"
    outside.mkdir()
    (outside / "secret").write_text(TEXT)
    os.symlink(outside, node.root / "etc/lists/linked")
    os.symlink(outside / "secret", node.root / "etc/lists/link")
    assert node.items(MODULE, "get_path_lists").affected == []
    for name in ("link", "secret"):
        assert codes(node.items(MODULE, "get_list_file", filename=name, raw=True)) == {name: 1802}
        assert codes(delete(node, name)) == {f"etc/lists/{name}": 1802}
    assert (outside / "secret").read_text() == TEXT


# ---- one list --------------------------------------------------------------------------------------------------------


def test_a_list_is_an_object_or_its_text(node: RulesetNode) -> None:
    node.write("etc/lists/team/a", TEXT)
    items = node.items(MODULE, "get_list_file", filename=["a"])
    assert items.affected == [{"one": "1", "a:b": "c:d", "empty": ""}]
    assert node.answer(MODULE, "get_list_file", filename="a", raw=True) == {"message": TEXT}


@pytest.mark.parametrize("name", ["missing", "../ossec.conf", "/etc/passwd", "a.cdb", "a\0", "", "team/a"])
def test_what_is_no_list_is_1802(node: RulesetNode, name: str) -> None:
    for path in ("etc/lists/a", "etc/lists/a.cdb", "etc/lists/team/b", "etc/ossec.conf"):
        node.write(path, TEXT)
    assert codes(node.items(MODULE, "get_list_file", filename=[name], raw=True)) == {name: 1802}


# ---- upload ----------------------------------------------------------------------------------------------------------


def test_an_upload_is_there_with_mode_0660(node: RulesetNode) -> None:
    assert upload(node, "new").affected == ["etc/lists/new"]
    assert node.tree() == {"etc/lists/new": TEXT.encode()}
    assert stat.S_IMODE((node.root / "etc/lists/new").stat().st_mode) == 0o660


def test_an_upload_replaces_a_file_only_with_overwrite(node: RulesetNode) -> None:
    node.write("etc/lists/a", "old:\n")
    assert codes(upload(node, "a")) == {"etc/lists/a": 1905}
    assert node.tree() == {"etc/lists/a": b"old:\n"}
    assert upload(node, "a", overwrite=True).affected == ["etc/lists/a"]
    assert node.tree() == {"etc/lists/a": TEXT.encode()}


def test_a_name_that_another_directory_has_is_1805(node: RulesetNode) -> None:
    node.write("etc/lists/team/a", TEXT)
    assert codes(upload(node, "a", overwrite=True)) == {"etc/lists/a": 1805}
    assert set(node.tree()) == {"etc/lists/team/a"}


def test_lines_of_windows_become_those_of_unix(node: RulesetNode) -> None:
    upload(node, "a", "one:1\r\ntwo:2\r\n")
    assert node.tree() == {"etc/lists/a": b"one:1\ntwo:2\n"}


@pytest.mark.parametrize(
    ("content", "code"), [("", 1112), (" \n", 1112), ("no colon", 1800), ("a:b:c", 1800), ("a:\0", 1800)]
)
def test_what_is_no_list_is_refused_and_leaves_the_old_one(node: RulesetNode, content: str, code: int) -> None:
    node.write("etc/lists/a", "old:\n")
    items = upload(node, "a", content, overwrite=True)
    assert codes(items) == {"etc/lists/a": code}
    assert node.tree() == {"etc/lists/a": b"old:\n"}


def test_a_malformed_list_is_named_in_the_text(node: RulesetNode) -> None:
    ((error, _),) = upload(node, "a", "none").failed
    assert error.extra_message == {"path": "etc/lists/a"}
    assert error.message.endswith("etc/lists/a")


@pytest.mark.parametrize("name", ["../a", "/tmp/a", "a.cdb", ".a", "a/b", "a\0", "a\n", "", "..", "x" * 251, "a~", "é"])
def test_nothing_but_a_list_is_written_or_removed(node: RulesetNode, name: str) -> None:
    node.write("etc/a", TEXT)
    before = node.tree()
    assert [*codes(upload(node, name, overwrite=True)).values()] == [1801]
    assert [*codes(delete(node, name)).values()] == [1801]
    assert node.tree() == before


def test_nothing_is_written_through_a_link(node: RulesetNode) -> None:
    outside = node.root.parent / f"{node.root.name}-outside"
    outside.mkdir()
    (outside / "a").write_text("old")
    os.symlink(outside / "a", node.root / "etc/lists/a")
    upload(node, "a", overwrite=True)
    assert (outside / "a").read_text() == "old"
    assert not (node.root / "etc/lists/a").is_symlink()

    (node.root / "etc/lists/a").unlink()
    (node.root / "etc/lists").rmdir()
    os.symlink(outside, node.root / "etc/lists")
    if os.geteuid() == 0:
        os.chown(node.root / "etc/lists", 65534, 65534, follow_symlinks=False)
        assert codes(upload(node, "b")) == {"etc/lists/b": 1806}
        assert os.listdir(outside) == ["a"]
        os.chown(node.root / "etc/lists", 0, 0, follow_symlinks=False)
    # An operator's own link in the place of a synchronised directory counts as that directory.
    assert upload(node, "b").affected == ["etc/lists/b"]
    assert sorted(os.listdir(outside)) == ["a", "b"]


# ---- delete ----------------------------------------------------------------------------------------------------------


def test_a_deleted_list_is_gone_with_its_compiled_form(node: RulesetNode) -> None:
    for path in ("etc/lists/team/a", "etc/lists/team/a.cdb", "etc/lists/ab"):
        node.write(path, TEXT)
    assert delete(node, "a").affected == ["etc/lists/team/a"]
    assert set(node.tree()) == {"etc/lists/ab"}
    assert codes(delete(node, "a")) == {"etc/lists/a": 1802}


def test_a_list_of_the_ruleset_is_not_deleted(node: RulesetNode) -> None:
    node.write("ruleset/lists/a", TEXT)
    assert codes(delete(node, "a")) == {"etc/lists/a": 1802}
    assert set(node.tree()) == {"ruleset/lists/a"}
