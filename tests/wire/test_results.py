"""Exceptions, results and other objects as JSON, against the recorded ones (wire.md 3.2 to 3.4, 10)."""

import base64
import json
import math
from datetime import date, datetime
from typing import Any

import pytest

from clusterd.api.jsontext import dump
from clusterd.errors import MESSAGES, ClusterError
from clusterd.wire.results import (
    MAX_DEPTH,
    MAX_PLAIN_TEXT,
    WireCallable,
    WireException,
    WireResult,
    class_of_code,
    decode_err_payload,
    decode_exception,
    dump_json,
    encode_exception,
    encode_failure,
    load_answer,
    load_json,
    load_request,
    parse_callable,
    shorten,
)
from tests.wire.vectors import load, payload_of

ERRORS = load("errors.json")
ENCODED = {case["name"]: case for case in ERRORS["encoded"]}
EXCEPTIONS = [case for case in ERRORS["encoded"] if case["decoded"]["kind"] == "wazuh_exception"]


@pytest.mark.parametrize("case", EXCEPTIONS, ids=lambda case: case["name"])
def test_recorded_exception_is_read_and_written_back(case: dict[str, Any]) -> None:
    exception = load_json(case["json"].encode())

    assert isinstance(exception, WireException)
    decoded = case["decoded"]
    assert (exception.wire_class, exception.code) == (decoded["class"], decoded["code"])
    assert exception.fields()["title"] == decoded["title"]
    assert exception.fields().get("ids") == decoded["ids"]
    if exception.code in MESSAGES:
        assert str(exception) == decoded["str"]
        assert exception.message == decoded["message"]
    assert dump_json(exception) == case["json"].encode()
    assert decode_exception(case["json"].encode()).fields() == exception.fields()


@pytest.mark.parametrize("case", ERRORS["err_payloads"], ids=lambda case: repr(case["payload_text"][:60]))
def test_err_is_always_an_exception(case: dict[str, Any]) -> None:
    """Where a stock node takes plain JSON for a success, or loses its connection, the result is 3000 with the text (C3,
    W11)."""
    payload = base64.b64decode(case["payload_b64"])

    exception = decode_err_payload(payload)

    value = case["value_returned"]
    if value is not None and value["kind"] == "wazuh_exception":
        assert (exception.wire_class, exception.code) == (value["class"], value["code"])
        assert str(exception) == value["str"]
    else:
        assert exception.code == 3000
        assert str(exception) == f"Error 3000 - Cluster: {payload.decode(errors='replace')}"


def test_dates_and_plain_exceptions_and_results_are_read_and_written_back() -> None:
    moment = datetime.fromisoformat(ENCODED["datetime_utc"]["decoded"]["isoformat"])
    assert load_json(ENCODED["datetime_utc"]["json"].encode()) == moment
    assert dump_json(moment) == ENCODED["datetime_utc"]["json"].encode()
    assert load_json(ENCODED["date"]["json"].encode()) == datetime.fromisoformat(
        ENCODED["date"]["decoded"]["isoformat"]
    )
    assert dump_json(date(2024, 1, 2)) == ENCODED["date"]["json"].encode()
    assert repr(load_json(ENCODED["unhandled"]["json"].encode())) == ENCODED["unhandled"]["decoded"]["repr"]
    for name in ("WazuhResult", "AffectedItemsWazuhResult"):
        result = load_json(ENCODED[name]["json"].encode())
        assert isinstance(result, WireResult)
        assert result.wire_class == name
        assert dump_json(result) == ENCODED[name]["json"].encode()


def test_special_objects_are_found_at_any_depth() -> None:
    text = ENCODED["nested"]["json"].encode()
    value = load_json(text)
    assert value["when"] == datetime(2024, 1, 1)
    assert isinstance(value["err"], WireException)
    assert value["list"] == [1, None, True]
    assert dump_json(value) == text


def test_our_errors_are_written_with_the_fields_and_class_that_stock_uses() -> None:
    hello = payload_of(load("replies.json")["master"][1]["reply"]["payload"])
    assert encode_exception(3028, "spec1") == hello
    assert encode_failure(ClusterError(3028, "spec1")) == hello
    recorded = load("replies.json")["master"] + load("replies.json")["worker"]
    seen = set()
    for case in recorded:
        payload = payload_of(case["reply"]["payload"])
        if payload.startswith(b'{"__wazuh_exception__"'):
            inner = json.loads(payload)["__wazuh_exception__"]
            fields = inner["__object__"]
            again = encode_exception(fields["code"], fields["extra_message"], remediation=fields["extra_remediation"])
            assert again == payload
            seen.add(fields["code"])
    assert seen == {1000, 1406, 1724, 1728, 1730, 3027, 3028, 3029, 3030, 3031, 3032}


@pytest.mark.parametrize(
    ("codes", "name"),
    [
        ((3041, 3049), "WazuhHAPHelperError"),
        ((1701, 1710, 1730), "WazuhResourceNotFound"),
        ((3004, 3005, 3006, 3013, 1400, 1415, 1703, 1752), "WazuhError"),
        ((4000,), "WazuhPermissionError"),
        ((3009, 3012, 3036, 1000, 1399, 1416, 1702, 1753, 2999), "WazuhInternalError"),
        ((3000, 3003, 3007, 3014, 3020, 3037, 3040, 3050, 3999, 4001), "WazuhClusterError"),
    ],
)
def test_every_code_has_the_class_under_which_stock_reports_it(codes: tuple[int, ...], name: str) -> None:
    """dapi.md, appendix B."""
    assert {code: class_of_code(code) for code in codes} == dict.fromkeys(codes, name)


def test_error_of_a_peer_goes_on_as_it_came() -> None:
    payload = ENCODED["dapi_errors"]["json"].encode()
    assert encode_failure(decode_err_payload(payload)) == payload


def test_json_has_the_separators_and_escapes_of_the_original() -> None:
    assert dump_json({"a": [1, "grö\u00dfe \U0001f600"], "b": None}) == (
        b'{"a": [1, "gr\\u00f6\\u00dfe \\ud83d\\ude00"], "b": null}'
    )
    with pytest.raises(TypeError):
        dump_json({"a": object()})


# ---- what a peer may not do ------------------------------------------------------------------------------------------


def test_callable_is_a_name_and_only_as_f_of_an_api_request() -> None:
    encoded = ENCODED["callable_function"]["json"]
    name = WireCallable("status", "wazuh.core.manager", "status", "function")
    assert parse_callable(json.loads(encoded)) == name
    without_type = json.loads(encoded)
    del without_type["__callable__"]["__type__"]
    assert parse_callable(without_type) == name, "dapi.md 8.2: it is ignored"
    assert dump_json(name) == encoded.encode()
    request = load_request(b'{"f": ' + encoded.encode() + b', "f_kwargs": {}}')
    assert request == {"f": name, "f_kwargs": {}}
    for elsewhere in (
        encoded,
        f'{{"f": {encoded}}}',
        f"[{encoded}]",
        f'{{"__wazuh_exception__": {{"__class__": "WazuhError", "__object__": {{"code": 1, "ids": [{encoded}]}}}}}}',
    ):
        with pytest.raises(ClusterError, match="function"):
            load_json(elsewhere.encode())
        assert decode_err_payload(elsewhere.encode()).code == 3000
    with pytest.raises(ClusterError, match="function"):
        load_request(b'{"f": null, "f_kwargs": {"g": ' + encoded.encode() + b"}}")


@pytest.mark.parametrize(
    "change",
    [
        {"__callable__": []},
        {"__callable__": None},
        {"more": 1},
        {"__name__": 1},
        {"__module__": None},
        {"__qualname__": ["status"]},
        {"__type__": {}},
        {"__wazuh__": "self"},
    ],
    ids=str,
)
def test_malformed_callable_is_refused(change: dict[str, Any]) -> None:
    encoded = json.loads(ENCODED["callable_function"]["json"])
    if change.keys() <= {"__callable__", "more"}:
        encoded |= change
    else:
        encoded["__callable__"] |= change
    with pytest.raises(ClusterError) as refusal:
        parse_callable(encoded)
    assert refusal.value.code == 1000


def test_request_without_a_function_has_none() -> None:
    assert load_request(b'{"f_kwargs": {}}') == {"f_kwargs": {}}


def test_plain_text_of_a_peer_is_kept_up_to_a_bound() -> None:
    longest = "x" * MAX_PLAIN_TEXT
    assert decode_err_payload(longest.encode()).extra == longest
    assert decode_err_payload(longest.encode() + b"y").extra == longest + "..."
    assert decode_err_payload(b"").extra is None


def test_methods_of_the_node_object_keep_its_fields() -> None:
    text = (
        b'{"__callable__": {"__name__": "get", "__module__": "m", "__qualname__": "W.get", "__type__": "method", '
        b'"__wazuh__": {"path": "/var/ossec"}}}'
    )
    function = parse_callable(json.loads(text))
    assert function.wazuh == {"path": "/var/ossec"}
    assert dump_json(function) == text


@pytest.mark.parametrize(
    "inner",
    [
        '{"__class__": "Nope", "__object__": {"code": 1}}',
        '{"__class__": "WireException", "__object__": {"code": 1}}',
        '{"__class__": "WazuhError", "__object__": {}}',
        '{"__class__": "WazuhError", "__object__": {"code": "1"}}',
        '{"__class__": "WazuhError", "__object__": {"code": true}}',
        '{"__class__": "WazuhError", "__object__": {"code": 1, "other": 2}}',
        '{"__class__": "WazuhError", "__object__": {"code": 1, "extra_message": 5}}',
        '{"__class__": "WazuhError", "__object__": {"code": 1, "extra_remediation": []}}',
        '{"__class__": "WazuhError", "__object__": {"code": 1, "cmd_error": "yes"}}',
        '{"__class__": "WazuhError", "__object__": {"code": 1, "dapi_errors": []}}',
        '{"__class__": "WazuhError", "__object__": {"code": 1, "ids": {}}}',
        '{"__class__": "WazuhError", "__object__": []}',
        '{"__class__": ["WazuhError"], "__object__": {"code": 1}}',
        '{"__object__": {"code": 1}}',
        "[]",
        "null",
    ],
)
def test_malformed_exception_is_refused(inner: str) -> None:
    encoded = f'{{"__wazuh_exception__": {inner}}}'.encode()
    with pytest.raises(ClusterError) as refusal:
        load_json(encoded)
    assert refusal.value.code == 1000
    assert decode_err_payload(encoded).code == 3000


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nojson",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
        b'{"__wazuh_datetime__": 5}',
        b'{"__wazuh_datetime__": "yesterday"}',
        b'{"__wazuh_result__": {"__class__": "Other", "__object__": {}}}',
        b'{"__unhandled_exc__": {"__class__": "E"}}',
        b'{"__unhandled_exc__": 7}',
        *(b'{"a": [%b]}' % number for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999")),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_bad_json_is_refused(text: bytes) -> None:
    with pytest.raises(ClusterError) as refusal:
        load_json(text)
    assert refusal.value.code == 1000
    with pytest.raises(ClusterError):
        load_request(text)
    assert decode_err_payload(text).code == 3000


def test_answers_of_stock_functions_may_hold_what_python_computes() -> None:
    result = load_answer(dump_json(WireResult("WazuhResult", {"result": {"usage": float("nan"), "rate": 0.5}})))
    assert math.isnan(result.fields["result"]["usage"])
    assert json.loads(dump(result)) == {"usage": None, "rate": 0.5}
    assert b'"usage": null' in dump(result, pretty=True)


def test_text_of_bad_json_is_the_recorded_one() -> None:
    with pytest.raises(ClusterError) as refusal:
        load_json(b"nojson")
    assert encode_failure(refusal.value) == next(
        payload_of(case["reply"]["payload"])
        for case in load("replies.json")["master"]
        if case["command"] == "get_nodes" and case["payload"].get("text") == "nojson"
    )


def test_depth_and_size_are_bounded() -> None:
    assert load_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None
    with pytest.raises(ClusterError, match="deep"):
        load_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    with pytest.raises(ClusterError, match="limit"):
        load_json(b'"' + b"a" * 100 + b'"', limit=50)


def test_error_text_of_a_peer_is_one_line_of_bounded_length_and_valid_text() -> None:
    forged = decode_err_payload(b"x\n2026/01/01 00:00:00 ERROR: [Master] [Main] forged\r\x1b[2J")
    assert "\n" not in str(forged)
    assert "\x1b" not in str(forged)
    assert len(str(decode_err_payload(b"a" * 1_000_000))) < 5000
    lone = load_json(b'{"a\\ud800": ["\\udfff"]}')
    assert json.dumps(lone, ensure_ascii=False).encode()


@pytest.mark.slow
def test_every_character_that_could_break_a_line_is_shown_and_does_not_break_it() -> None:
    """All line ends that str.splitlines knows, and control characters of terminals."""
    assert str(WireException(99999, "a\tb\n\r\x1b\x85\u2028\u2029c")) == (
        "Error 99999 - a\tb\\n\\r\\x1b\\x85\\u2028\\u2029c"
    )
    for letter in map(chr, (*range(0xD800), 0xFEFF)):
        assert len(str(WireException(99999, letter)).splitlines()) == 1, hex(ord(letter))


def test_exception_without_a_detail_has_the_text_of_its_code_or_none() -> None:
    assert str(WireException(99999)) == "Error 99999 - "
    assert str(WireException(1000, cmd_error=True)) == "Error 1000 - "
    assert WireException(3000).message == MESSAGES[3000]
    assert WireException(3019, {"MASTER_IP": "192.0.2.1"}).extra is None
    assert "{EXECUTABLE_NAME} is not available" in str(WireException(3019, {}))


def test_text_is_shortened_above_its_bound_only() -> None:
    assert (shorten("abc", 3), shorten("abcd", 3)) == ("abc", "abc... (4 characters)")


def test_request_must_be_an_object() -> None:
    for text in (b"[]", b"null", b'{"__wazuh_datetime__": "2024-01-02"}'):
        with pytest.raises(ClusterError):
            load_request(text)


def test_placeholders_are_filled_once_and_only_those_of_our_text() -> None:
    exception = WireException(3019, {"EXECUTABLE_NAME": "{MASTER_IP}{other}", "MASTER_IP": "192.0.2.1", "other": "x"})

    assert "{MASTER_IP}{other} is not available" in str(exception)
    assert "master node: 192.0.2.1" in str(exception)


@pytest.mark.parametrize(
    "extra",
    ["A" * 60_000, {"EXECUTABLE_NAME": "{a}" * 1000, "a": "{b}" * 1000, "b": "x" * 50_000}],
    ids=["text", "nested placeholders"],
)
@pytest.mark.parametrize("code", [1000, 3019, 99999])
def test_the_readable_text_of_a_peers_exception_is_short(code: int, extra: str | dict[str, str]) -> None:
    exception = decode_exception(encode_exception(code, extra))

    assert len(str(exception)) < 3000


def test_a_huge_exception_is_not_decoded() -> None:
    huge = encode_exception(1000, "A" * 100_000)

    with pytest.raises(ClusterError, match="above the limit"):
        decode_exception(huge)
    assert decode_err_payload(huge).code == 3000
