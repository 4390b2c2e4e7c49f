"""Rules, decoders and lists as they occur in the field, read through the API's functions."""

import contextlib
import tarfile
from pathlib import Path
from typing import Any
from xml.sax.handler import ContentHandler
from xml.sax.saxutils import escape, quoteattr

import pytest
from defusedxml import sax
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.config.markup import Element, TooMuch, read_markup, text_of
from clusterd.dapi.ruleset.xml import MalformedXml, parse_ruleset
from clusterd.wire.results import dump_json
from tests.dapi.ruleset_node import RulesetNode, codes
from tests.sizes import examples

RULE = (
    '<group name="local,"><rule id="100100" level="3"><match>x</match><description>One</description></rule></group>\n'
)
DECODER = '<decoder name="one"><prematch>^one</prematch></decoder>\n'
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "ruleset-4.14.1.tar.xz"


@pytest.fixture
def node(tmp_path: Path) -> RulesetNode:
    return RulesetNode(tmp_path)


def rules_of(node: RulesetNode, content: str | bytes, *, failed: int | None = None) -> list[dict[str, Any]]:
    node.write("etc/rules/odd.xml", content)
    items = node.items("wazuh.rule", "get_rules")
    assert codes(items) == ({} if failed is None else {"etc/rules/odd.xml": failed})
    dump_json(items.wire())
    return items.affected


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + RULE,
        RULE + "written by hand",
        "notes first\n" + RULE,
        RULE + "\n-- \nthe end > & <",
        RULE.upper().replace("ONE", "One").replace("LOCAL", "local"),
        RULE.replace("</rule>", "</RULE>"),
        RULE.replace("\n", "\r\n"),
        RULE.rstrip(),
        RULE + "<!-- a -- b -->",
        '<?xml version="1.0"?>' + RULE,
        "<!DOCTYPE group>\n" + RULE,
        RULE.replace('"100100"', '" 100100 "'),
        RULE.replace('"', "'"),
        RULE + '<var name="x">&y;</var>',
    ],
    ids=range(14),
)
def test_a_file_of_rules_in_an_odd_form_is_read(node: RulesetNode, content: str) -> None:
    (row,) = rules_of(node, content)
    assert (row["id"], row["level"], row["groups"], row["description"]) == (100100, 3, ["local"], "One")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a < b", "a < b"),
        ("a <b", "a <b"),
        ("<5>", "<5>"),
        ("a && b > c", "a && b > c"),
        ("?a=1&b=2", "?a=1&b=2"),
        (r"\<b>", r"\<b>"),
        ("C:\\", "C:\\"),
        ("&lt;b&gt;", "<b>"),
        ("<![CDATA[<b>]]>", "<b>"),
        ("a\x1b\x01b", "a\x1b\x01b"),
        ("<<", "<<"),
        ("x" * 200_000, "x" * 200_000),
    ],
    ids=range(12),
)
def test_a_pattern_is_what_is_written(node: RulesetNode, written: str, read: str) -> None:
    (row,) = rules_of(node, RULE.replace(">x<", f">{written}<"))
    assert row["details"]["match"] == read


def test_bytes_that_are_no_utf8_do_not_keep_the_rest_away(node: RulesetNode) -> None:
    (row,) = rules_of(node, RULE.encode().replace(b">x<", b">\xff\xe9<"))
    assert row["details"]["match"] == "\ufffd\ufffd"


@pytest.mark.parametrize(
    "content", ["", "\n", "\ufeff", "<!-- all\n<group> -->", "<?xml version='1.0'?>\n", "only words"]
)
def test_a_file_without_elements_is_no_failed_item(node: RulesetNode, content: str) -> None:
    node.write("etc/decoders/odd.xml", content)
    assert rules_of(node, content) == []
    items = node.items("wazuh.decoder", "get_decoders")
    assert (items.affected, codes(items)) == ([], {})
    shown = node.items("wazuh.rule", "get_rule_file", filename="odd.xml")
    assert (shown.affected, codes(shown)) == ([{}], {})


def test_ids_of_twenty_digits_are_ids(node: RulesetNode) -> None:
    (row,) = rules_of(node, RULE.replace("100100", "9" * 20))
    assert row["id"] == int("9" * 20)
    assert node.items("wazuh.rule", "get_rules", rule_ids=[int("9" * 20)]).affected == [row]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (RULE + RULE.replace('"100100"', '"x"') + RULE.replace("100100", "7"), "line 2: a rule needs numbers"),
        (RULE + RULE.replace("100100", "7") + "</group>", "line 3: </group> closes nothing"),
        (RULE + RULE.replace("100100", "7") + "<!-- ", "line 3: a comment that is not closed"),
        (RULE + RULE.replace('"100100"', "7"), "line 2: the value of id has no quotes"),
        (RULE + RULE.replace("100100", "7").replace(">x<", "><b>x<"), "line 2: <b> is not closed before </match>"),
        (RULE + RULE.replace("100100", "7").replace(">x<", ">\0<"), "line 2: a NUL byte"),
    ],
    ids=range(6),
)
def test_of_a_damaged_file_all_that_can_be_read_is_shown(node: RulesetNode, content: str, why: str) -> None:
    assert [row["id"] for row in rules_of(node, content, failed=1413)] == [7, 100100]
    ((error, _),) = node.items("wazuh.rule", "get_rules").failed
    assert why in str(error)


def test_a_decoder_without_a_name_hides_no_other(node: RulesetNode) -> None:
    node.write("etc/decoders/odd.xml", DECODER + "<decoder/>" + DECODER)
    items = node.items("wazuh.decoder", "get_decoders")
    assert [row["position"] for row in items.affected] == [0, 2]
    assert codes(items) == {"etc/decoders/odd.xml": 1501}


@pytest.mark.parametrize(
    "content", ["\ufeff" + RULE, RULE.replace(">x<", "> a < b <"), RULE.replace("</rule>", "</Rule>")]
)
def test_what_is_read_may_be_uploaded(node: RulesetNode, content: str) -> None:
    items = node.items("wazuh.rule", "upload_rule_file", filename="new.xml", content=content)
    assert (items.affected, codes(items)) == (["etc/rules/new.xml"], {})
    assert (node.root / "etc/rules/new.xml").read_bytes() == content.encode()


# ---- one reader against a strict one ---------------------------------------------------------------------------------

_NAMES = st.sampled_from(["group", "rule", "match", "regex", "a", "x-y", "z.1", "k_2", "ä"])
_TEXTS = st.text(
    st.characters(
        exclude_categories=["Cs", "Cc"], include_characters="\n\t<>&\"'\\", exclude_characters="\ufffe\uffff\ufeff"
    ),
    max_size=12,
)
_TREES: st.SearchStrategy[Any] = st.recursive(
    st.tuples(_NAMES, st.dictionaries(_NAMES, _TEXTS, max_size=2), _TEXTS, st.just([])),
    lambda below: st.tuples(_NAMES, st.dictionaries(_NAMES, _TEXTS, max_size=2), _TEXTS, st.lists(below, max_size=3)),
    max_leaves=10,
)


def rendered(tree: Any) -> str:
    name, attributes, text, children = tree
    inner = "".join(rendered(child) for child in children)
    given = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{name}{given}>{escape(text)}<!-- {name} -->{inner}</{name}>"


class _Strict(ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.stack = [Element("")]

    def startElement(self, name: str, attrs: Any) -> None:
        element = Element(name, attributes=dict(attrs.items()))
        self.stack[-1].children.append(element)
        self.stack.append(element)

    def endElement(self, name: str) -> None:
        self.stack.pop()

    def characters(self, content: str) -> None:
        self.stack[-1].parts.append(content)


def plain(element: Element) -> Any:
    attributes = {name: " ".join(value.split()) for name, value in element.attributes.items()}
    return element.name, attributes, element.text, [plain(child) for child in element.children]


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(_TREES)
def test_what_is_xml_is_read_as_any_xml_reader_does(tree: Any) -> None:
    text = rendered(tree).replace("\\<", "\\ <").replace("\\&lt;", "\\ &lt;")
    strict = _Strict()
    sax.parseString(text.encode(), strict)
    document = read_markup(text)
    assert [plain(root) for root in document.roots] == [plain(root) for root in strict.stack[0].children]
    assert document.complaints == []


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.lists(
            st.sampled_from(
                [
                    RULE,
                    DECODER,
                    "<group>",
                    "</group>",
                    "<rule id='1' level='2'>",
                    "</RULE>",
                    "<!--",
                    "-->",
                    "<![CDATA[",
                    "]]>",
                ]
                + [
                    "\\",
                    "<",
                    ">",
                    "&",
                    "&#0;",
                    "&#xd800;",
                    "\0",
                    "\ufeff",
                    "\r",
                    "<!DOCTYPE ",
                    "[",
                    "]",
                    "'",
                    '"',
                    "\udcff",
                ]
            ),
            max_size=20,
        ).map("".join),
        st.text(max_size=60),
    )
)
def test_any_file_is_rows_or_a_failed_item(tmp_path: Path, text: str) -> None:
    node = RulesetNode(tmp_path) if not (tmp_path / "tmp").exists() else RulesetNode.__new__(RulesetNode)
    node.root = tmp_path
    data = text.encode("utf-8", "surrogatepass")
    for path in ("etc/rules/odd.xml", "etc/decoders/odd.xml", "etc/lists/odd"):
        node.write(path, data)
    for module, function in (("rule", "get_rules"), ("decoder", "get_decoders"), ("cdb_list", "get_lists")):
        items = node.items(f"wazuh.{module}", function)
        assert set(codes(items)) <= {"etc/rules/odd.xml", "etc/decoders/odd.xml"}
        dump_json(items.wire())


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ['<a b="' * 200_000, "<a " * 300_000, "<!--" * 300_000, "</a>" * 300_000, "<a" + " b=''" * 150_000, "<" * 1_000_000]
    + [
        "<a" + " " * 1_000_000,
        "\\<" * 500_000,
        "<![CDATA[" * 100_000,
        "<!DOCTYPE x [" * 100_000,
        "<" + "a" * 1_000_000,
    ],
    ids=range(11),
)
def test_a_long_file_of_openings_takes_linear_time(text: str) -> None:
    """With quadratic time it would take hours: the suite's timeout ends that."""
    with contextlib.suppress(TooMuch):
        read_markup(text)


@pytest.mark.shared
def test_the_real_ruleset_is_read_without_a_complaint() -> None:
    if not SHARED.exists():
        pytest.skip("needs ../shared")
    seen = 0
    with tarfile.open(SHARED) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(".xml") else None
            if content is None:
                continue
            text = text_of(content.read())
            try:
                assert parse_ruleset(text)
            except MalformedXml as failure:
                pytest.fail(f"{member.name}: {failure}")
            seen += 1
    assert seen > 100
