"""ossec.conf as it occurs in the field: what surrounds the `<cluster>` block, and the block itself."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.config.loading import Loaded, load
from clusterd.config.problem import Problem
from clusterd.dapi.ruleset.config import RULES, read_section
from clusterd.settings import ClusterBlock, Settings
from clusterd.wire.results import WireException
from tests.conftest import KEY
from tests.sizes import examples

BLOCK = f"""  <cluster>
    <name>west</name>
    <node_name>n1</node_name>
    <node_type>worker</node_type>
    <key>{KEY}</key>
    <port>1600</port>
    <nodes><node>10.0.0.1</node></nodes>
  </cluster>
"""
OUTSIDE = {
    "redirection": "<command>/usr/bin/df -P 2>&1</command>",
    "and": "<command>a && b</command>",
    "query": "<url>https://feed.example/v1?a=1&b=2&lt</url>",
    "less": "<query>a < b and c <d or <5></query>",
    "heredoc": "<command>cat <<EOF</command>",
    "arrows": "<regex><-- ></regex>",
    "case": "<Syscheck><Frequency>43200</FREQUENCY></sysCheck>",
    "comment": "<!-- a -- b <cluster> & --->",
    "old cluster in a comment": "<!--\n<cluster><key>x</key></cluster>\n-->",
    "cdata": "<localfile><![CDATA[ </ossec_config> <cluster> ]]></localfile>",
    "entity": "<x>&undefined; &#0; &#x110000; &amp;</x>",
    "left open": "<localfile><location>/var/log/x",
    "left open twice": "<a><b><a>",
    "closes nothing": "</localfile>",
    "crossed": "<a><b>1</a></b>",
    "no quotes": "<rule id=5>x</rule>",
    "odd quotes": "<rule id=\"5>x</rule>\n<y z='>x</y>",
    "less in a value": '<rule id="a < b">x</rule>',
    "twice an attribute": '<a b="1" b="2"/>',
    "end tag with space": "<a>x</a\n>",
    "backslash": "<directories>C:\\</directories>",
    "backslash bracket": "<regex>\\<b>\\</b></regex>",
    "instruction": "<?php echo 1 ?>",
    "control characters": "<x>\x01\x0c\x1b[0m</x>",
    "nul": "<x>\0</x>",
    "prefix": "<x:y>1</x:y>",
    "digits": "<1>2</1>",
    "letters": "<größe>ü</größe>",
    "long line": f"<x>{'y' * 100_000}</x>",
    "text": "only words",
    "bad utf-8": "<x>\udcff\udcfe</x>",
    "cluster of something else": "<integration><cluster><key>other</key></cluster></integration>",
    "empty block": "<cluster/>",
}
"""Anything that may stand between the sections of a file."""
ANYWHERE = [text for name, text in OUTSIDE.items() if name != "empty block"]
BEFORE = {
    "doctype": "<!DOCTYPE ossec_config>\n",
    "doctype with entities": '<!DOCTYPE x [\n<!ENTITY a "b]">\n<!ENTITY c SYSTEM "file:///etc/passwd">\n]>\n',
    "doctype in small letters": "<!doctype x>\n",
    "declaration": '<?xml version="1.0" encoding="ISO-8859-1"?>\n',
    "declaration late": '\n\n<?xml version="1.0"?>\n',
    "mark": "\ufeff",
    "words": "do not edit\n",
    "other root": "<agent_config os='x'><a/></agent_config>\n",
    "root left open": "<ossec_config>\n<global>\n",
    "nothing": "",
}


def conf_of(before: str, around: list[str], block: str = BLOCK, after: list[str] | None = None) -> str:
    inside, last = "\n".join(around), "\n".join(after or [])
    return f"{before}<ossec_config>\n{inside}\n{block}{last}\n</ossec_config>\n"


def loaded(root: Path, text: str | bytes) -> Loaded:
    (root / "etc").mkdir(exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    (root / "etc" / "ossec.conf").write_bytes(data)
    return load(str(root))


def cluster_of(root: Path, text: str | bytes) -> ClusterBlock:
    found = loaded(root, text)
    assert found.settings is not None, [str(problem) for problem in found.problems]
    return found.settings.cluster


def problem_of(root: Path, text: str | bytes) -> Problem:
    found = loaded(root, text)
    assert found.settings is None
    return found.problems[0]


@pytest.fixture
def plain(tmp_path: Path) -> ClusterBlock:
    return cluster_of(tmp_path, conf_of("", []))


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["before", "after", "both"])
def test_text_around_the_block_is_not_judged(tmp_path: Path, plain: ClusterBlock, name: str, place: str) -> None:
    before = [OUTSIDE[name]] if place != "after" else []
    after = [OUTSIDE[name]] if place != "before" and name != "empty block" else []
    assert cluster_of(tmp_path, conf_of("", before, after=after)) == plain
    assert cluster_of(tmp_path, conf_of("", before, after=after).replace("\n", "\r\n")) == plain


@pytest.mark.parametrize("name", BEFORE)
def test_text_before_the_first_element_is_not_judged(tmp_path: Path, plain: ClusterBlock, name: str) -> None:
    assert cluster_of(tmp_path, conf_of(BEFORE[name], [])) == plain


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.sampled_from(sorted(BEFORE.values())),
    around=st.lists(st.sampled_from(ANYWHERE), max_size=6),
    after=st.lists(st.sampled_from(ANYWHERE), max_size=6),
    ends=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_odd_pieces_together_hide_nothing(
    tmp_path: Path, plain: ClusterBlock, before: str, around: list[str], after: list[str], ends: str
) -> None:
    assert cluster_of(tmp_path, conf_of(before, around, after=after).replace("\n", ends)) == plain


def test_a_fault_around_the_block_is_a_warning_with_its_line(tmp_path: Path) -> None:
    found = loaded(tmp_path, conf_of("", ["<a>", "<b>", "</a>"]))
    assert found.settings is not None
    assert [warning.where for warning in found.warnings] == ["line 3"]
    assert "<b> is not closed before </a> in line 4" in found.warnings[0].text


def test_several_roots_are_one_configuration(tmp_path: Path, plain: ClusterBlock) -> None:
    text = (
        "<ossec_config><a/></ossec_config>\n<ossec_config>\n" + BLOCK + "</ossec_config>\n<ossec_config></ossec_config>"
    )
    assert cluster_of(tmp_path, text) == plain


def test_tags_of_the_block_may_be_in_any_case(tmp_path: Path, plain: ClusterBlock) -> None:
    text = BLOCK
    for tag in ("cluster", "node_name", "key", "nodes", "node"):
        text = text.replace(f"<{tag}>", f"<{tag.upper()}>").replace(f"</{tag}>", f"</{tag.upper()}>")
    assert cluster_of(tmp_path, f"<OSSEC_config>\n{text}</ossec_CONFIG>") == plain


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("<name>west</name>", "<name>a & b</name>", 4),
        ("<name>west</name>", "<name>a < b</name>", 4),
        ("<name>west</name>", "<name>a\nb</nam>", 5),
        ("<name>west</name>", "<name>&who;</name>", 4),
        ("<name>west</name>", "<name b=1>west</name>", 4),
        ("<name>west</name>", "<name>w\0est</name>", 4),
        ("<name>west</name>", "<name>w\udcffst</name>", 4),
        ("<name>west</name>", "<!-- a -- b -->", 4),
        ("</nodes>", "", 9),
        ("  </cluster>\n", "", 3),
    ],
)
def test_the_block_itself_must_be_xml_and_is_named_by_its_line(tmp_path: Path, old: str, new: str, line: int) -> None:
    problem = problem_of(tmp_path, conf_of("", ["<x>2>&1</x>"], BLOCK.replace(old, new)).replace("\n", "\r\n"))
    assert problem.where == f"line {line}", str(problem)
    assert problem.stock_text.startswith("Error 3006 - Error reading cluster configuration: ")


@pytest.mark.parametrize("hidden", ["<!-- open\n", "<a><![CDATA[\n", "<!DOCTYPE x [\n"])
def test_a_block_that_something_unclosed_swallows_is_no_node_without_cluster(tmp_path: Path, hidden: str) -> None:
    problem = problem_of(tmp_path, f"<ossec_config>\n{hidden}{BLOCK}</ossec_config>\n")
    assert problem.where == "line 2" or "<a>" in hidden
    assert "no <cluster> was found" in problem.text


def test_a_file_cut_off_before_its_block_is_no_node_without_cluster(tmp_path: Path) -> None:
    assert "no <cluster> was found" in problem_of(tmp_path, "<ossec_config>\n<global>\n").text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_another_encoding_is_refused_and_not_taken_for_an_empty_file(tmp_path: Path, encoding: str) -> None:
    data = conf_of("", []).encode(encoding)
    assert "UTF-16" in problem_of(tmp_path, data).text or "NUL" in problem_of(tmp_path, data).text


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n", b"<!-- nothing -->", b"<ossec_config></ossec_config>"])
def test_a_file_without_block_is_a_node_without_cluster(tmp_path: Path, data: bytes) -> None:
    assert cluster_of(tmp_path, data).disabled


def test_too_deep_and_too_large_files_are_refused(tmp_path: Path) -> None:
    assert "nested more than 64 deep" in problem_of(tmp_path, conf_of("", ["<a>" * 100])).text
    assert "nested more than 64 deep" in problem_of(tmp_path, conf_of("", ["<a>" * 500_000])).text
    with open(tmp_path / "etc" / "ossec.conf", "wb") as file:
        file.truncate(1 << 33)
    assert "larger than" in load(str(tmp_path)).problems[0].text


def test_an_invalid_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc" / "ossec.conf").mkdir(parents=True)
    assert "cannot be read" in load(str(tmp_path)).problems[0].text


def test_of_several_lists_of_nodes_all_count_and_the_first_is_first(tmp_path: Path) -> None:
    more = "<nodes><node>10.0.0.2</node><node>10.0.0.1</node></nodes>\n<nodes/>\n"
    found = loaded(tmp_path, conf_of("", [], BLOCK.replace("  </cluster>", f"{more}  </cluster>")))
    assert found.settings is not None
    assert found.settings.cluster.nodes == ("10.0.0.1", "10.0.0.2")
    assert "all of them count" in found.warnings[0].text
    assert found.warnings[0].where == "line 10"


@pytest.mark.parametrize(
    "name", ["a:b", "a@b", "a(1)", "a+b", "größe", "名", "a/b", "a\\b", "a,b", ".a", "*", "a" * 129]
)
def test_a_node_name_outside_the_rule_is_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    problem = problem_of(tmp_path, conf_of("", [], BLOCK.replace(">n1<", f">{name}<")))
    assert problem.where == "line 5"
    assert problem.text.startswith("a node name ")


# ---- the ruleset section, which other readers of this file know better -----------------------------------------------


def test_a_fault_elsewhere_is_none_of_the_ruleset_section(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    section = "<Ruleset>\n<Rule_Dir>etc/rules/own</rule_dir>\n<rule_exclude>a & b.xml</rule_exclude>\n</ruleset>"
    (tmp_path / "etc" / "ossec.conf").write_text(f"<!DOCTYPE x>\n<ossec_config><a>\n{section}\n<b>2>&1</ossec_config>")
    found = read_section(Settings(root=str(tmp_path)), RULES)
    assert (found.directories, found.excluded) == (("etc/rules/own",), frozenset({"a & b.xml"}))


@pytest.mark.parametrize(
    "text", ["<ossec_config><ruleset><rule_dir>x</ruleset></ossec_config>", "<ossec_config><!-- <ruleset/>"]
)
def test_a_fault_that_may_hide_the_ruleset_section_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ossec.conf").write_text(text)
    with pytest.raises(WireException, match="line 1"):
        read_section(Settings(root=str(tmp_path)), RULES)


# ---- anything at all -------------------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        *OUTSIDE.values(),
        *BEFORE.values(),
        "<",
        ">",
        "&",
        "\\",
        '"',
        "'",
        "</",
        "/>",
        "<!",
        "<!--",
        "-->",
        "]]>",
        "<![CDATA[",
        "]",
    ]
    + [f"<{name}>" for name in ("ossec_config", "cluster", "key", "nodes", "node", "ruleset")]
    + [f"</{name}>" for name in ("ossec_config", "cluster", "key", "nodes", "node", "ruleset")]
    + [BLOCK, KEY, "disabled", "\n", "\r", "\ufffd", " "]
)


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(_PIECES, max_size=25).map("".join), st.binary(max_size=200)))
def test_any_file_is_read_or_refused_with_its_name(tmp_path: Path, text: str | bytes) -> None:
    found = loaded(tmp_path, text)
    assert (found.settings is None) == bool(found.problems)
    lines = (text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")).splitlines()
    for problem in (*found.problems, *found.warnings):
        assert problem.file == os.path.join(tmp_path, "etc", "ossec.conf")
        if problem.where.startswith("line "):
            assert 1 <= int(problem.where[5:]) <= len(lines) + 1
        assert KEY not in str(problem)
        assert KEY not in problem.stock_text
