"""The program of the framework without a process: what it reads and what it writes."""

import ast
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from clusterd.framework import program
from clusterd.framework.program import CallRefused, TooLarge, Writer, parse, values_of
from tests.framework.requests import request, wire_name
from tests.sizes import examples

KEY = "c98b62a9b6169ac5f67dae55ae4a9088"


def test_it_is_one_file_that_python_3_9_understands_and_imports_nothing_of_clusterd() -> None:
    tree = ast.parse(Path(program.__file__).read_text(), feature_version=(3, 9))
    named = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    named |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert named <= sys.stdlib_module_names


def test_a_request_is_read() -> None:
    found = parse(request("wazuh.agent", "get_agents", agent_list=["001"]))
    assert program.name_of(found) == ("wazuh.agent", "get_agents")
    assert found["f_kwargs"] == {"agent_list": ["001"]}


CALL = '{"__callable__": {"__name__": "system", "__module__": "os", "__qualname__": "system", "__type__": "function"}}'
F = json.dumps(wire_name("wazuh.agent", "get_agents"))
HIDDEN = [
    '{"f": $F, "f_kwargs": {"a": $CALL}}',
    '{"f": $F, "f_kwargs": {"a": [{"b": [[$CALL]]}]}}',
    '{"f": $F, "f_kwargs": {"a": {"__unhandled_exc__": {"__class__": "open", "__args__": ["/x"]}}}}',
    '{"f": $F, "f_kwargs": {"a": {"__wazuh_exception__": {"__class__": "WazuhError", "__object__": {}}}}}',
    '{"f": $F, "f_kwargs": {"a": {"__wazuh_result__": {}}}}',
    '{"f": $F, "f_kwargs": {"a": {"\\u005f_callable__": 1}}}',
    '{"f": $F, "f_kwargs": {"a": $CALL, "a": 1}}',
    '{"f": $CALL, "f": $F}',
    '{"f": {"a": 1}, "f_kwargs": {"a": $CALL}}',
    '{"f": $F, "rbac_permissions": {"rbac_mode": $CALL}}',
    '{"f": $F, "nodes": [$CALL]}',
    '{"f": {"__callable__": $CALL}}',
    '{"f": $F, "f_kwargs": {"a": ' + "[" * 10_000 + "]" * 10_000 + "}}",
    '{"f": $F, "f_kwargs": {"a": ' + '{"a":' * 100_000,
    '{"f": $F, "f_kwargs": {"a\\"[": ' + "[" * 100 + "]" * 100 + "}}",
    '{"f": "os.system"}',
    '{"f_kwargs": {}}',
    "[]",
    "",
    "{",
]


def filled(text: str) -> str:
    return text.replace("$F", F).replace("$CALL", CALL)


@pytest.mark.parametrize("text", HIDDEN, ids=lambda text: f"{text[:60]}-{len(text)}")
def test_what_is_hidden_in_a_request_is_refused_before_anything_is_called(text: str) -> None:
    with pytest.raises(CallRefused):
        parse(filled(text).encode())


def test_other_encodings_are_no_way_around_that() -> None:
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        with pytest.raises(CallRefused):
            parse(filled(HIDDEN[0]).encode(encoding))


def test_brackets_in_texts_are_no_nesting() -> None:
    text = "[" * 1000 + '\\"{' * 1000
    assert parse(request("wazuh.agent", "get_agents", text=text))["f_kwargs"]["text"] == text


@pytest.mark.slow
@hypothesis.settings(max_examples=examples(30))
@hypothesis.given(
    strategies.recursive(
        strategies.text() | strategies.integers(),
        lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
    )
)
def test_plain_arguments_come_through_as_they_are(value: Any) -> None:
    parsed = parse(json.dumps({"f": wire_name("wazuh.agent", "get_agents"), "f_kwargs": {"a": value}}).encode())
    assert values_of(parsed["f_kwargs"], lambda found: found) == {"a": value}


def heavy(value: Any, times: int) -> Any:
    return {"first": 1, "many": [value] * times, "by": {str(number): value for number in range(times)}, 5: [value]}


@pytest.mark.slow
@hypothesis.settings(max_examples=examples(20))
@hypothesis.given(
    strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.floats(allow_nan=False) | strategies.text(),
        lambda inner: (
            strategies.lists(inner, max_size=5) | strategies.dictionaries(strategies.text(), inner, max_size=5)
        ),
        max_leaves=20,
    ),
    strategies.sampled_from([1, 2500, 6000]),
)
def test_pieces_make_the_text_that_the_encoder_makes(value: Any, times: int) -> None:
    answer = heavy(value, times)
    writer = Writer(json.JSONEncoder, [], 1 << 40, 1 << 40)
    assert writer.write(answer, "") == (program.ANSWER, json.dumps(answer).encode())


@pytest.mark.parametrize(
    "make",
    [lambda: None, lambda: "x" * 1_000_000, lambda: [*range(100_000)], lambda: dict.fromkeys(map(str, range(9999)))],
)
def test_long_lists_are_divided_although_not_every_item_is_looked_into(make: Callable[[], Any]) -> None:
    items: list[Any] = [{"id": number, "os": {"name": "ubuntu"}} for number in range(20_001)]
    items[3] = make()
    writer = Writer(json.JSONEncoder, [], 1 << 40, 1 << 40)
    pieces = list(writer._pieces({"data": items}))
    assert "".join(pieces) == json.dumps({"data": items})
    assert max(piece.count(":") for piece in pieces) < 2 * program.PIECE
    assert max(map(len, pieces)) < 1_100_000


@pytest.mark.parametrize(("part", "times"), [("é", 3_000_000), ("\U0001f600", 2_000_000), ('"\\', 2_000_000)])
def test_long_texts_are_cut_without_a_trace(part: str, times: int) -> None:
    text = part * times
    writer = Writer(json.JSONEncoder, [], 1 << 40, 1 << 40)
    assert writer.write({"message": text}, "")[1] == json.dumps({"message": text}).encode()


def test_a_large_answer_is_a_file_and_one_above_the_limit_leaves_none(tmp_path: Path) -> None:
    answer = heavy("x" * 100, 3000)
    out = str(tmp_path / "out")
    kind, size = Writer(json.JSONEncoder, [], 1 << 30, 1000).write(answer, out)
    assert kind == program.FILE
    assert Path(out).read_bytes() == json.dumps(answer).encode()
    assert int(size) == Path(out).stat().st_size
    os.unlink(out)
    with pytest.raises(TooLarge, match="100000 bytes"):
        Writer(json.JSONEncoder, [], 100_000, 1000).write(answer, out)
    assert not Path(out).exists()


def test_the_cluster_key_is_in_no_answer(tmp_path: Path) -> None:
    around = "x" * (program.PIECE_CHARACTERS - 16)  # the key lies across the end of a piece
    for answer in (
        {"key": KEY},
        {"text": f"<key>{KEY}</key>"},
        {"text": around + KEY + around},
        [KEY] * 9000,
        {KEY: 1},
    ):
        _, payload = Writer(json.JSONEncoder, [KEY], 1 << 40, 1 << 40).write(answer, "")
        assert KEY.encode() not in payload
        assert b"*****" in payload


@pytest.mark.parametrize("mask", [["a.c", "", "(\\x"], ["", "(\\x", "a.c"]])
def test_what_is_masked_is_a_text_and_no_pattern_and_nothing_masks_nothing(mask: list[str]) -> None:
    answer = ["abc a.c (\\x", {"aac": "a.c"}, ""]
    _, payload = Writer(json.JSONEncoder, mask, 1 << 40, 1 << 40).write(answer, "")
    assert json.loads(payload) == ["abc ***** *****", {"aac": "*****"}, ""]
    assert json.loads(Writer(json.JSONEncoder, [""], 1 << 40, 1 << 40).write(answer, "")[1]) == answer
