import os
import stat
from pathlib import Path

import msgspec
import pytest

from clusterd.dapi.files.tree_files import locked_directory
from clusterd.dapi.ruleset.config import DECODERS, RULES, Kind
from clusterd.dapi.ruleset.xml import LARGEST_XML, MalformedXml, as_objects, parse_ruleset
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


@pytest.fixture
def node(tmp_path: Path) -> RulesetNode:
    return RulesetNode(tmp_path)


def files_of(node: RulesetNode, kind: Kind, **given: object) -> list[tuple[str, str, str]]:
    items = node.items(kind.module, f"get_{kind.words}_files", **given)
    assert not items.failed
    return [(row["relative_dirname"], row["filename"], row["status"]) for row in items.affected]


# ---- listing ---------------------------------------------------------------------------------------------------------


@BOTH
def test_without_a_section_the_stock_directories_are_listed(node: RulesetNode, kind: Kind, content: str) -> None:
    node.write(f"ruleset/{kind.words}/0010.xml", content)
    node.write(f"etc/{kind.words}/local.xml", content)
    node.write(f"etc/{kind.words}/notes.txt", "no")
    node.write(f"etc/{kind.words}/.hidden.xml", content)
    node.write(f"etc/{kind.words}/below/deeper.xml", content)
    assert files_of(node, kind) == [
        (f"ruleset/{kind.words}", "0010.xml", "enabled"),
        (f"etc/{kind.words}", "local.xml", "enabled"),
    ]


@BOTH
def test_the_section_names_directories_files_and_what_is_excluded(node: RulesetNode, kind: Kind, content: str) -> None:
    word, words = kind.word, kind.words
    node.configure(
        f"<{word}_dir>ruleset/{words}</{word}_dir>",
        f"<{word}_dir>etc/{words}/team</{word}_dir>",
        f"<{word}_include>etc/{words}/alone.xml</{word}_include>",
        f"<{word}_include>etc/{words}/missing.xml</{word}_include>",
        f"<{word}_exclude>b.xml</{word}_exclude>",
        f"<{word}_exclude>etc/{words}/team/c.xml</{word}_exclude>",
    )
    for path in ("ruleset/{}/b.xml", "ruleset/{}/c.xml", "etc/{}/team/c.xml", "etc/{}/alone.xml", "etc/{}/other.xml"):
        node.write(path.format(words), content)
    assert files_of(node, kind, sort_by=["relative_dirname", "filename"]) == [
        (f"etc/{words}", "alone.xml", "enabled"),
        (f"etc/{words}/team", "c.xml", "disabled"),
        (f"ruleset/{words}", "b.xml", "disabled"),
        (f"ruleset/{words}", "c.xml", "enabled"),
    ]


def test_the_section_of_one_kind_says_nothing_of_the_other(node: RulesetNode) -> None:
    node.configure("<rule_dir>etc/rules/only</rule_dir>")
    node.write("etc/decoders/local.xml", DECODER)
    node.write("etc/rules/local.xml", RULE)
    assert files_of(node, DECODERS) == [("etc/decoders", "local.xml", "enabled")]
    assert files_of(node, RULES) == []


def test_files_are_filtered_by_status_name_and_directory(node: RulesetNode) -> None:
    node.configure(
        "<rule_dir>etc/rules</rule_dir>", "<rule_dir>ruleset/rules</rule_dir>", "<rule_exclude>b.xml</rule_exclude>"
    )
    for path in ("etc/rules/a.xml", "etc/rules/b.xml", "ruleset/rules/a.xml"):
        node.write(path, RULE)
    assert files_of(node, RULES, status="disabled") == [("etc/rules", "b.xml", "disabled")]
    assert len(files_of(node, RULES, status="enabled")) == 2
    assert len(files_of(node, RULES, status="all")) == 3
    assert files_of(node, RULES, filename=["b.xml", "none.xml"]) == [("etc/rules", "b.xml", "disabled")]
    assert files_of(node, RULES, relative_dirname="ruleset/rules/") == [("ruleset/rules", "a.xml", "enabled")]
    assert files_of(node, RULES, filename=[]) == []


def test_another_status_is_1202(node: RulesetNode) -> None:
    with pytest.raises(WireException) as caught:
        files_of(node, RULES, status="maybe")
    assert caught.value.code == 1202


def test_a_page_counts_all_files(node: RulesetNode) -> None:
    for name in "abc":
        node.write(f"etc/rules/{name}.xml", RULE)
    items = node.items("wazuh.rule", "get_rules_files", offset=1, limit=1, select=["status"])
    assert items.affected == [{"filename": "b.xml", "status": "enabled"}]
    assert items.total_affected == 3


def test_directories_outside_of_etc_and_ruleset_are_not_read(node: RulesetNode) -> None:
    outside = node.root.parent / f"{node.root.name}-outside"
    outside.mkdir()
    (outside / "secret.xml").write_text(RULE)
    node.write("queue/secret.xml", RULE)
    os.symlink(outside, node.root / "etc/rules/linked")
    os.symlink(outside / "secret.xml", node.root / "etc/rules/link.xml")
    node.configure(
        *(
            f"<rule_dir>{path}</rule_dir>"
            for path in ("etc/rules", "queue", str(outside), f"etc/../../{outside.name}", "etc/rules/linked")
        ),
        f"<rule_include>etc/../../{outside.name}/secret.xml</rule_include>",
        "<rule_include>etc/rules/link.xml</rule_include>",
    )
    assert files_of(node, RULES) == []
    assert codes(node.items("wazuh.rule", "get_rule_file", filename="link.xml", raw=True)) == {"link.xml": 1415}


@BOTH
def test_a_broken_configuration_is_an_error_of_the_kind(node: RulesetNode, kind: Kind, content: str) -> None:
    node.write("etc/ossec.conf", "<ossec_config><ruleset>")
    with pytest.raises(WireException) as caught:
        files_of(node, kind)
    assert caught.value.code == {"rules": 1200, "decoders": 1500}[kind.words]


# ---- one file --------------------------------------------------------------------------------------------------------


@BOTH
def test_a_raw_file_is_its_text(node: RulesetNode, kind: Kind, content: str) -> None:
    node.write(f"etc/{kind.words}/local.xml", content)
    answer = node.answer(kind.module, f"get_{kind.word}_file", filename=["local.xml"], raw=True)
    assert answer == {"message": content}


def test_a_file_is_shown_as_a_document(node: RulesetNode) -> None:
    node.write("etc/rules/local.xml", RULE)
    items = node.items("wazuh.rule", "get_rule_file", filename="local.xml")
    rule = {"@id": "100100", "@level": "3", "description": "One"}
    assert items.affected == [{"group": {"@name": "local,", "rule": rule}}]


def test_of_two_files_of_a_name_the_directory_decides(node: RulesetNode) -> None:
    node.write("etc/rules/same.xml", RULE)
    node.write("ruleset/rules/same.xml", RULE.replace("One", "Two"))
    for directory, shown in (("etc/rules", "One"), ("ruleset/rules", "Two")):
        answer = node.answer("wazuh.rule", "get_rule_file", filename="same.xml", raw=True, relative_dirname=directory)
        assert shown in answer["message"]


@pytest.mark.parametrize("name", ["missing.xml", "../rules/local.xml", "/etc/passwd", "local.xml\0", "", "x" * 5000])
@BOTH
def test_what_is_not_listed_is_not_found(node: RulesetNode, kind: Kind, content: str, name: str) -> None:
    node.write(f"etc/{kind.words}/local.xml", content)
    items = node.items(kind.module, f"get_{kind.word}_file", filename=name, raw=True)
    assert codes(items) == {name: kind.not_found}


def test_a_huge_file_is_not_read(node: RulesetNode) -> None:
    with node.write("etc/rules/huge.xml", "").open("wb") as file:
        file.truncate(1 << 40)
    assert codes(node.items("wazuh.rule", "get_rule_file", filename="huge.xml", raw=True)) == {"huge.xml": 1413}


def test_a_file_that_is_no_xml_is_shown_raw_only(node: RulesetNode) -> None:
    node.write("etc/rules/bad.xml", "<group>")
    assert codes(node.items("wazuh.rule", "get_rule_file", filename="bad.xml")) == {"bad.xml": 1413}
    assert node.answer("wazuh.rule", "get_rule_file", filename="bad.xml", raw=True) == {"message": "<group>"}


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
def test_an_upload_replaces_only_when_told_so(node: RulesetNode, kind: Kind, content: str) -> None:
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


# ---- the dialect -----------------------------------------------------------------------------------------------------


def test_a_backslash_makes_text_of_a_bracket() -> None:
    (regex,) = parse_ruleset(r"<regex>\<arg>(\w+)\</arg></regex>")
    assert (regex.text, regex.children) == (r"\<arg>(\w+)\</arg>", [])


def test_an_escaped_backslash_makes_nothing_of_a_bracket() -> None:
    (field,) = parse_ruleset(r'<field name="x">E:\\</field>')
    assert field.text == r"E:\\"


def test_a_single_backslash_before_the_end_is_read_as_plain_xml() -> None:
    (field,) = parse_ruleset("<field>E:\\</field>")
    assert field.text == "E:\\"


@pytest.mark.parametrize("name", ["&amp;", "&#65;", "&#x41;", "&lt;"])
def test_entities_stay_what_they_are(name: str) -> None:
    expected = {"&amp;": "&", "&#65;": "A", "&#x41;": "A", "&lt;": "<"}
    assert parse_ruleset(f"<a>{name}</a>")[0].text == expected[name]


def test_an_ampersand_may_stand_alone() -> None:
    assert parse_ruleset("<a>x=1&server=2&&lol;</a>")[0].text == "x=1&server=2&&lol;"


def test_comments_may_hold_anything_but_their_end() -> None:
    assert [root.name for root in parse_ruleset("<!-- a -- <b> & -->\n<a/><!-- x --><c/>")] == ["a", "c"]


def test_cdata_is_left_alone() -> None:
    assert parse_ruleset(r"<a><![CDATA[\<b>&c <!-- d -->]]></a>")[0].text == r"\<b>&c <!-- d -->"


def test_a_declaration_may_come_first() -> None:
    assert parse_ruleset("<?xml version='1.0' encoding='latin-1'?>\n<a>é</a>")[0].text == "é"


def test_the_line_of_a_mistake_is_that_of_the_file() -> None:
    with pytest.raises(MalformedXml, match=r"^line 3: <a> is not closed|^line 4:"):
        parse_ruleset("<!-- one\ntwo -->\n<a>\n</b>")


def test_a_document_keeps_repeated_names_and_texts() -> None:
    parsed = as_objects(parse_ruleset('<a k="v">t<b/><b>1</b><b><c>2</c></b></a><a/>'))
    assert parsed == {"a": [{"@k": "v", "b": [None, "1", {"c": "2"}], "#text": "t"}, None]}
    msgspec.json.encode(parsed)
