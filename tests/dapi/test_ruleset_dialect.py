"""The XML of rules and decoders as the field writes it."""

import msgspec
import pytest

from clusterd.dapi.ruleset.xml import MalformedXml, as_objects, parse_ruleset


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
