"""Rules and decoders that are uploaded or deleted."""

import os
import stat

import pytest

from clusterd.dapi.files.tree_files import locked_directory
from clusterd.dapi.ruleset.config import DECODERS, RULES, Kind
from clusterd.dapi.ruleset.xml import LARGEST_XML
from clusterd.wire.results import WireException, dump_json
from tests.dapi.ruleset_node import DECODER, RULE, RulesetNode, codes

BOTH = pytest.mark.parametrize(("kind", "content"), [(RULES, RULE), (DECODERS, DECODER)], ids=["rules", "decoders"])
LAUGHS = """<!DOCTYPE lolz [
 <!ENTITY lol "lol">
 <!ENTITY lol1 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">
 <!ENTITY lol2 "&lol1;&lol1;&lol1;&lol1;&lol1;&lol1;&lol1;&lol1;&lol1;&lol1;">
]>
<group name="x"><rule id="1" level="1"><description>&lol2;</description></rule></group>
"""
OUTSIDE = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]><group name="x">&e;</group>'


# ---- upload ----------------------------------------------------------------------------------------------------------


@BOTH
def test_an_upload_is_there_with_mode_0660(node: RulesetNode, kind: Kind, content: str) -> None:
    items = node.items(kind.module, f"upload_{kind.word}_file", filename="new.xml", content=content)
    path = f"etc/{kind.words}/new.xml"
    assert (items.affected, codes(items)) == ([path], {})
    assert (node.root / path).read_text() == content
    assert stat.S_IMODE((node.root / path).stat().st_mode) == 0o660
    assert set(node.tree()) == {path}


@BOTH
def test_an_upload_replaces_a_file_only_with_overwrite(node: RulesetNode, kind: Kind, content: str) -> None:
    path = f"etc/{kind.words}/new.xml"
    node.write(path, "<old/>")
    upload = f"upload_{kind.word}_file"
    assert codes(node.items(kind.module, upload, filename="new.xml", content=content)) == {path: 1905}
    assert node.tree() == {path: b"<old/>"}
    assert node.items(kind.module, upload, filename="new.xml", content=content, overwrite=True).affected == [path]
    assert node.tree() == {path: content.encode()}


def test_an_upload_has_the_group_of_its_directory(node: RulesetNode) -> None:
    groups = [group for group in os.getgroups() if group != os.getegid()] or ([4711] if os.geteuid() == 0 else [])
    if not groups:
        pytest.skip("this user is in one group only")
    os.chown(node.root / "etc/rules", -1, groups[0])
    node.items("wazuh.rule", "upload_rule_file", filename="new.xml", content=RULE)
    assert (node.root / "etc/rules/new.xml").stat().st_gid == groups[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner(node: RulesetNode) -> None:
    os.chown(node.write("etc/rules/new.xml", RULE), 4711, 4712)
    node.items("wazuh.rule", "upload_rule_file", filename="new.xml", content=RULE, overwrite=True)
    found = (node.root / "etc/rules/new.xml").stat()
    assert (found.st_uid, found.st_gid) == (4711, 4712)


def test_an_upload_goes_to_any_directory_of_the_section(node: RulesetNode) -> None:
    node.configure("<rule_dir>etc/rules/team</rule_dir>")
    (node.root / "etc/rules/team").mkdir()
    (node.root / "etc/rules/other").mkdir()

    def upload(directory: str) -> dict[str, int]:
        items = node.items(
            "wazuh.rule", "upload_rule_file", filename="new.xml", content=RULE, relative_dirname=directory
        )
        return codes(items)

    assert upload("etc/rules/team") == {}
    assert upload("etc/rules/other") == {"etc/rules/other/new.xml": 1211}
    assert upload("etc/rules") == {"etc/rules/new.xml": 1211}


def test_an_upload_into_no_directory_is_1209(node: RulesetNode) -> None:
    node.configure("<rule_dir>etc/rules/team</rule_dir>", "<decoder_dir>etc/decoders/team</decoder_dir>")
    for kind, content, code in ((RULES, RULE, 1209), (DECODERS, DECODER, 1505)):
        directory = f"etc/{kind.words}/team"
        items = node.items(
            kind.module, f"upload_{kind.word}_file", filename="a.xml", content=content, relative_dirname=directory
        )
        assert codes(items) == {f"{directory}/a.xml": code}


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("etc/rules", "../escaped.xml"),
        ("etc/rules", "/tmp/escaped.xml"),
        ("etc/rules", "a.xml\0.txt"),
        ("etc/rules", "a.xml\n"),
        ("etc/rules", ".xml"),
        ("etc/rules", "a.conf"),
        ("etc/rules", "below/a.xml"),
        ("etc/rules", "x" * 252 + ".xml"),
        ("etc/rules/..", "a.xml"),
        ("etc/rules/../decoders", "a.xml"),
        ("etc/rules//below", "a.xml"),
        ("etc/rulesets", "a.xml"),
        ("ruleset/rules", "a.xml"),
        ("etc", "a.xml"),
        ("/etc/rules", "a.xml"),
        ("", "a.xml"),
    ],
)
def test_nothing_outside_of_the_users_directory_is_written_or_removed(
    node: RulesetNode, directory: str, name: str
) -> None:
    node.write("ruleset/rules/a.xml", RULE)
    before = node.tree()
    place = {"filename": name, "relative_dirname": directory}
    upload = node.items("wazuh.rule", "upload_rule_file", content=RULE, overwrite=True, **place)
    delete = node.items("wazuh.rule", "delete_rule_file", **place)
    assert [*codes(upload).values()] == [1210]
    assert [*codes(delete).values()] == [1210]
    assert node.tree() == before
    dump_json(upload.wire())


def test_nothing_is_written_or_removed_through_a_link(node: RulesetNode) -> None:
    outside = node.root.parent / f"{node.root.name}-outside"
    outside.mkdir()
    target = outside / "a.xml"
    target.write_text("old")
    node.configure("<rule_dir>etc/rules</rule_dir>", "<rule_dir>etc/rules/linked</rule_dir>")
    os.symlink(outside, node.root / "etc/rules/linked")
    os.symlink(target, node.root / "etc/rules/link.xml")

    for function, given in (("upload_rule_file", {"content": RULE, "overwrite": True}), ("delete_rule_file", {})):
        items = node.items("wazuh.rule", function, filename="a.xml", relative_dirname="etc/rules/linked", **given)
        assert codes(items) == {"etc/rules/linked/a.xml": 1210}
    assert codes(node.items("wazuh.rule", "upload_rule_file", filename="link.xml", content=RULE)) == {
        "etc/rules/link.xml": 1905
    }
    assert codes(node.items("wazuh.rule", "delete_rule_file", filename="link.xml")) == {"etc/rules/link.xml": 1906}
    node.items("wazuh.rule", "upload_rule_file", filename="link.xml", content=RULE, overwrite=True)
    assert target.read_text() == "old"
    assert not (node.root / "etc/rules/link.xml").is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", 1112),
        (" \n", 1112),
        ("no element", 1113),
        ("<!-- nothing -->", 1113),
        ("<group>", 1113),
        ("<group></grup>", 1113),
        ("<group/> and more", 1113),
        ("<group/></root><root>", 1113),
        ("<group>\0</group>", 1113),
        ("<group><!-- open </group>", 1113),
        (LAUGHS, 1113),
        (OUTSIDE, 1113),
        ("<a>" * 100 + "</a>" * 100, 1113),
        ("<a>" * 100_000 + "</a>" * 100_000, 1113),
        ("<a/>" * 200_001, 1113),
        ("<!--" * 500_000, 1113),
        ("<group>" + "x" * LARGEST_XML + "</group>", 1113),
    ],
    ids=range(17),
)
def test_what_is_no_ruleset_is_refused_and_leaves_the_old_file(node: RulesetNode, content: str, code: int) -> None:
    node.write("etc/rules/a.xml", RULE)
    items = node.items("wazuh.rule", "upload_rule_file", filename="a.xml", content=content, overwrite=True)
    assert codes(items) == {"etc/rules/a.xml": code}
    assert node.tree() == {"etc/rules/a.xml": RULE.encode()}


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    node: RulesetNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.write("etc/rules/a.xml", RULE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    items = node.items("wazuh.rule", "upload_rule_file", filename="a.xml", content="<new/>", overwrite=True)
    assert codes(items) == {"etc/rules/a.xml": 1006}
    assert node.tree() == {"etc/rules/a.xml": RULE.encode()}


def test_two_requests_do_not_write_at_once(node: RulesetNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterd.dapi.files.tree_files._LOCK_S", 0.05)
    with locked_directory(str(node.root), "etc/rules"):
        items = node.items("wazuh.rule", "upload_rule_file", filename="a.xml", content=RULE)
    assert codes(items) == {"etc/rules/a.xml": 1006}
    assert node.tree() == {}
    assert node.items("wazuh.rule", "upload_rule_file", filename="a.xml", content=RULE).affected == ["etc/rules/a.xml"]


# ---- delete ----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_deleted_file_is_gone(node: RulesetNode, kind: Kind, content: str) -> None:
    node.write(f"etc/{kind.words}/a.xml", content)
    node.write(f"etc/{kind.words}/b.xml", content)
    delete = f"delete_{kind.word}_file"
    assert node.items(kind.module, delete, filename="a.xml").affected == [f"etc/{kind.words}/a.xml"]
    assert codes(node.items(kind.module, delete, filename="a.xml")) == {f"etc/{kind.words}/a.xml": 1906}
    assert set(node.tree()) == {f"etc/{kind.words}/b.xml"}


def test_a_directory_is_no_file_to_delete(node: RulesetNode) -> None:
    (node.root / "etc/rules/a.xml").mkdir()
    assert codes(node.items("wazuh.rule", "delete_rule_file", filename="a.xml")) == {"etc/rules/a.xml": 1906}
    upload = node.items("wazuh.rule", "upload_rule_file", filename="a.xml", content=RULE, overwrite=True)
    assert codes(upload) == {"etc/rules/a.xml": 1006}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_a_file_that_may_not_be_removed_is_1907(node: RulesetNode) -> None:
    node.write("etc/rules/a.xml", RULE)
    (node.root / "etc/rules").chmod(0o500)
    assert codes(node.items("wazuh.rule", "delete_rule_file", filename="a.xml")) == {"etc/rules/a.xml": 1907}


def test_several_names_are_1202(node: RulesetNode) -> None:
    with pytest.raises(WireException) as caught:
        node.items("wazuh.rule", "delete_rule_file", filename=["a.xml", "b.xml"])
    assert caught.value.code == 1202
