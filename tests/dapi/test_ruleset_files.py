"""Files of rules and decoders: listing them, and showing one."""

import os

import pytest

from clusterd.dapi.ruleset.config import DECODERS, RULES, Kind
from clusterd.wire.results import WireException
from tests.dapi.ruleset_node import DECODER, RULE, RulesetNode, codes

BOTH = pytest.mark.parametrize(("kind", "content"), [(RULES, RULE), (DECODERS, DECODER)], ids=["rules", "decoders"])


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
