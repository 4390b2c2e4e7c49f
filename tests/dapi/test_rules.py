"""Rules and decoders in answers; the files are small ones of the tests."""

from pathlib import Path
from typing import Any

import pytest

from clusterd.dapi.ruleset import rows as ruleset_rows
from clusterd.wire.results import WireException, dump_json
from tests.dapi.ruleset_node import RulesetNode, codes

DOOR = r"""<!-- Doors -- and gates -->
<var name="WHO">porter</var>
<group name="building,door,">
  <rule id="100200" level="0">
    <decoded_as>door</decoded_as>
    <description>Messages of doors.</description>
  </rule>
  <rule id="100201" level="10" frequency="4" timeframe="60" ignore="30">
    <if_matched_sid>100200</if_matched_sid>
    <same_source_ip />
    <field name="state" type="pcre2">^open|\<ajar></field>
    <field name="who">$WHO</field>
    <ignore>who</ignore>
    <options>no_full_log</options>
    <description>A door was forced,</description>
    <description>again and again.</description>
    <mitre>
      <id>T1110</id>
      <id>T1078.001</id>
    </mitre>
    <group>pci_dss_10.2.4,gdpr_IV_35.7.d,break_in,nist_800_53_AC.7,tsc_CC6.1,hipaa_164.312.b,gpg13_7.1,</group>
  </rule>
</group>
<group name="gate">
  <rule id="100100" level="3">
    <match>a & b</match>
    <description>Gate.</description>
    <group>pci_dss_1.4</group>
  </rule>
</group>
"""
WINDOW = '<group name="window,"><rule id="100300" level="5"><description>Window.</description></rule></group>'
DECODERS = r"""<decoder name="door">
  <program_name>^doord</program_name>
</decoder>
<decoder name="door-open">
  <parent>door</parent>
  <prematch offset="after_parent">^open</prematch>
  <regex>\<who>(\w+)\</who></regex>
  <regex type="pcre2">at (\d+)</regex>
  <order>user, time</order>
</decoder>
<decoder name="door">
  <parent>door</parent>
</decoder>
"""


@pytest.fixture
def node(tmp_path: Path) -> RulesetNode:
    made = RulesetNode(tmp_path)
    made.configure(
        *(f"<{kind}_dir>{top}/{kind}s</{kind}_dir>" for kind in ("rule", "decoder") for top in ("etc", "ruleset")),
        "<rule_exclude>window.xml</rule_exclude>",
        "<decoder_exclude>gate.xml</decoder_exclude>",
    )
    made.write("etc/rules/door.xml", DOOR)
    made.write("ruleset/rules/window.xml", WINDOW)
    made.write("etc/decoders/door.xml", DECODERS)
    made.write("ruleset/decoders/gate.xml", '<decoder name="gate"><prematch>^gate</prematch></decoder>')
    return made


def ids(node: RulesetNode, **given: Any) -> list[int]:
    items = node.items("wazuh.rule", "get_rules", **given)
    assert not items.failed
    return [row["id"] for row in items.affected]


def names(node: RulesetNode, **given: Any) -> list[tuple[str, int]]:
    items = node.items("wazuh.decoder", "get_decoders", **given)
    assert not items.failed
    return [(row["name"], row["position"]) for row in items.affected]


def test_a_rule_has_its_requirements_apart_from_its_groups(node: RulesetNode) -> None:
    (row,) = node.items("wazuh.rule", "get_rules", rule_ids=[100201]).affected
    assert row == {
        "filename": "door.xml",
        "relative_dirname": "etc/rules",
        "id": 100201,
        "level": 10,
        "status": "enabled",
        "details": {
            "frequency": "4",
            "timeframe": "60",
            "ignore": ["30", "who"],
            "if_matched_sid": "100200",
            "same_source_ip": "",
            "field": [
                {"name": "state", "type": "pcre2", "pattern": r"^open|\<ajar>"},
                {"name": "who", "pattern": "$WHO"},
            ],
            "options": "no_full_log",
        },
        "pci_dss": ["10.2.4"],
        "gpg13": ["7.1"],
        "gdpr": ["IV_35.7.d"],
        "hipaa": ["164.312.b"],
        "nist_800_53": ["AC.7"],
        "tsc": ["CC6.1"],
        "mitre": ["T1110", "T1078.001"],
        "groups": ["building", "door", "break_in"],
        "description": "A door was forced, again and again.",
    }


def test_rules_come_by_id(node: RulesetNode) -> None:
    assert ids(node) == [100100, 100200, 100201, 100300]
    assert ids(node, sort_by=["level"], sort_ascending=False, limit=2) == [100201, 100300]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rule_ids": [100100, 100300, 7]}, [100100, 100300]),
        ({"rule_ids": []}, []),
        ({"status": "disabled"}, [100300]),
        ({"status": "enabled"}, [100100, 100200, 100201]),
        ({"group": "door"}, [100200, 100201]),
        ({"group": "doo"}, []),
        ({"level": "3"}, [100100]),
        ({"level": 3}, [100100]),
        ({"level": "3-5"}, [100100, 100300]),
        ({"level": "5-3"}, []),
        ({"filename": ["window.xml"]}, [100300]),
        ({"relative_dirname": "ruleset/rules"}, [100300]),
        ({"pci_dss": "1.4"}, [100100]),
        ({"gpg13": "7.1"}, [100201]),
        ({"gdpr": "IV_35.7.d"}, [100201]),
        ({"hipaa": "164.312.b"}, [100201]),
        ({"nist_800_53": "AC.7"}, [100201]),
        ({"tsc": "CC6.1"}, [100201]),
        ({"mitre": "T1110"}, [100201]),
        ({"mitre": "T1110", "group": "gate"}, []),
        ({"search_text": "FORCED"}, [100201]),
        ({"q": "level>2;level<6"}, [100100, 100300]),
        ({"q": "details.decoded_as=door"}, [100200]),
    ],
    ids=str,
)
def test_rules_are_filtered(node: RulesetNode, given: dict[str, Any], expected: list[int]) -> None:
    assert ids(node, **given) == expected


@pytest.mark.parametrize("given", [{"level": "high"}, {"level": "1-"}, {"level": "-1"}, {"status": "on"}], ids=str)
def test_an_invalid_filter_is_1202(node: RulesetNode, given: dict[str, Any]) -> None:
    with pytest.raises(WireException) as caught:
        ids(node, **given)
    assert caught.value.code == 1202


def test_selected_rules_keep_their_id(node: RulesetNode) -> None:
    rows = node.items("wazuh.rule", "get_rules", select=["details.decoded_as"], filename=["door.xml"], limit=2).affected
    assert rows == [{"id": 100100}, {"id": 100200, "details": {"decoded_as": "door"}}]


def test_groups_are_names_without_requirements(node: RulesetNode) -> None:
    items = node.items("wazuh.rule", "get_groups")
    assert items.affected == ["break_in", "building", "door", "gate", "window"]
    items = node.items("wazuh.rule", "get_groups", offset=1, limit=2, sort_ascending=False)
    assert (items.affected, items.total_affected) == (["gate", "door"], 5)


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("pci_dss", ["1.4", "10.2.4"]),
        ("gpg13", ["7.1"]),
        ("gdpr", ["IV_35.7.d"]),
        ("hipaa", ["164.312.b"]),
        ("nist-800-53", ["AC.7"]),
        ("nist_800_53", ["AC.7"]),
        ("tsc", ["CC6.1"]),
        ("mitre", ["T1078.001", "T1110"]),
    ],
)
def test_requirements_are_those_of_one_standard(node: RulesetNode, requirement: str, expected: list[str]) -> None:
    assert node.items("wazuh.rule", "get_requirement", requirement=requirement).affected == expected


def test_another_standard_is_1202(node: RulesetNode) -> None:
    with pytest.raises(WireException) as caught:
        node.items("wazuh.rule", "get_requirement", requirement="groups")
    assert caught.value.code == 1202


@pytest.mark.parametrize(
    "content", ["<group>", '<group name="x"><rule id="a" level="1"/></group>', '<group name="x"><rule id="1"/></group>']
)
def test_a_broken_file_of_rules_fails_alone(node: RulesetNode, content: str) -> None:
    node.write("etc/rules/broken.xml", content)
    items = node.items("wazuh.rule", "get_rules")
    assert len(items.affected) == 4
    assert codes(items) == {"etc/rules/broken.xml": 1413}
    assert codes(node.items("wazuh.rule", "get_groups")) == {"etc/rules/broken.xml": 1413}
    dump_json(items.wire())


def test_more_than_a_request_may_read_is_refused(node: RulesetNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruleset_rows, "LARGEST_RULESET", len(DOOR))
    assert len(ids(node, filename=["door.xml"])) == 3
    with pytest.raises(WireException) as caught:
        ids(node)
    assert caught.value.code == 1413


def test_decoders_come_by_file_and_place(node: RulesetNode) -> None:
    assert names(node) == [("door", 0), ("door-open", 1), ("door", 2), ("gate", 0)]


def test_a_decoder_has_details(node: RulesetNode) -> None:
    (row,) = node.items("wazuh.decoder", "get_decoders", names=["door-open"]).affected
    assert row == {
        "filename": "door.xml",
        "relative_dirname": "etc/decoders",
        "name": "door-open",
        "position": 1,
        "status": "enabled",
        "details": {
            "parent": "door",
            "prematch": {"offset": "after_parent", "pattern": "^open"},
            "regex": [r"\<who>(\w+)\</who>", {"type": "pcre2", "pattern": r"at (\d+)"}],
            "order": "user, time",
        },
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"parents": True}, [("door", 0), ("gate", 0)]),
        ({"names": ["door", "none"]}, [("door", 0), ("door", 2)]),
        ({"names": ["door"], "parents": True}, [("door", 0)]),
        ({"status": "disabled"}, [("gate", 0)]),
        ({"filename": ["gate.xml"]}, [("gate", 0)]),
        ({"relative_dirname": "etc/decoders", "offset": 1, "limit": 1}, [("door-open", 1)]),
        ({"q": "details.parent=door"}, [("door-open", 1), ("door", 2)]),
    ],
    ids=str,
)
def test_decoders_are_filtered(node: RulesetNode, given: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    assert names(node, **given) == expected


def test_selected_decoders_keep_their_place(node: RulesetNode) -> None:
    rows = node.items("wazuh.decoder", "get_decoders", names=["gate"], select=["status"]).affected
    assert rows == [{"filename": "gate.xml", "position": 0, "status": "disabled"}]


def test_a_decoder_without_a_name_fails_with_its_file(node: RulesetNode) -> None:
    node.write("etc/decoders/broken.xml", "<decoder/>")
    assert codes(node.items("wazuh.decoder", "get_decoders")) == {"etc/decoders/broken.xml": 1501}
