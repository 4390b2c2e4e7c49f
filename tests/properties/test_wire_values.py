"""Seals, fields, headers and JSON objects round-trip (wire.md 1.2, 2.2, 3.3)."""

import base64
from datetime import datetime
from typing import Any

from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.errors import ClusterError
from clusterd.wire.frame import HEADER_BYTES, build_header, command_field, frames_of, parse_field, parse_header
from clusterd.wire.results import (
    WireException,
    WireResult,
    decode_err_payload,
    dump_json,
    load_json,
    load_request,
)
from clusterd.wire.seal import Sealer
from clusterd.wire.token import BadSeal, sealed_length
from tests.sizes import examples

SEALER = Sealer(b"k" * 32)


@settings(deadline=None)
@given(st.binary(max_size=5000))
def test_what_is_sealed_opens_and_has_the_length_foretold(plain: bytes) -> None:
    token = SEALER.seal(plain)
    assert len(token) == sealed_length(len(plain))
    assert SEALER.open(token) == plain
    middle = len(token) // 2
    assert SEALER.open_parts([memoryview(token)[:middle], token[middle:]]) == plain


@settings(deadline=None)
@given(
    st.binary(max_size=100),
    st.integers(0, 300),
    st.integers(0, 255),
    st.sampled_from(["whole", "byte", "cut", "other"]),
)
def test_opens_what_fernet_opens_and_nothing_else(plain: bytes, place: int, value: int, damage: str) -> None:
    """Except foreign characters in a token, which Fernet skips and no node writes."""
    fernet = Fernet(base64.urlsafe_b64encode(b"k" * 32))
    token = bytearray(fernet.encrypt(plain))
    if damage == "byte":
        token[place % len(token)] = value
    elif damage == "cut":
        del token[place % len(token) :]
    elif damage == "other":
        token = bytearray(base64.urlsafe_b64encode(b"\x80" + plain))
    try:
        opened = SEALER.open(bytes(token))
    except BadSeal:
        assert damage != "whole"
    else:
        assert opened == fernet.decrypt(bytes(token)) == plain


COMMANDS = st.text(st.characters(max_codepoint=255, exclude_characters=" "), max_size=11)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), COMMANDS, st.none() | st.booleans())
def test_header_is_read_as_it_was_built(counter: int, length: int, command: str, divided: bool | None) -> None:
    header = build_header(counter, length, command, divided)
    assert len(header) == HEADER_BYTES
    assert parse_header(header) == (counter, length, command, divided is True)


@given(st.binary(min_size=12, max_size=12))
def test_any_field_has_a_command_that_can_be_written_again(field: bytes) -> None:
    command, _ = parse_field(field)
    assert parse_field(command_field(command))[0] == command


@given(st.text())
def test_any_word_is_a_field_or_is_refused(word: str) -> None:
    try:
        field = command_field(word)
    except ClusterError as refusal:
        code = refusal.code
        assert code in (3018, 3024)
    else:
        assert len(field) == 12


@settings(deadline=None, max_examples=examples(20))
@given(st.integers(5242860, 5242900) | st.integers(10485700, 10485800))
def test_division_loses_nothing_and_respects_the_size(length: int) -> None:
    body = bytes(length)
    frames = frames_of(7, "echo", body, divide=True)
    assert sum(len(frame) - HEADER_BYTES for frame in frames) == length
    assert all(len(frame) <= 5242880 for frame in frames)
    assert all(len(frame) == 5242880 for frame in frames[:-1])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT.filter(lambda key: key[:2] != "__"), inner, max_size=3)
    ),
    max_leaves=8,
)
CLASSES = st.sampled_from(["WazuhException", "WazuhClusterError", "WazuhError", "WazuhResourceNotFound"])
EXCEPTIONS = st.builds(
    WireException,
    st.integers(0, 99999),
    st.none() | TEXT | st.dictionaries(st.sampled_from(["node_name", "path"]), TEXT),
    wire_class=CLASSES,
    remediation=st.none() | TEXT,
    cmd_error=st.booleans(),
    dapi_errors=st.dictionaries(TEXT.filter(lambda key: key[:2] != "__"), st.just({"error": "x"}), max_size=2),
)
RESULTS = st.builds(
    WireResult, st.sampled_from(["WazuhResult", "AffectedItemsWazuhResult"]), st.dictionaries(st.just("result"), PLAIN)
)
OBJECTS = EXCEPTIONS | RESULTS | st.datetimes() | PLAIN


def comparable(value: Any) -> Any:
    if isinstance(value, WireException):
        return value.wire_class, comparable(value.fields())
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    return [comparable(item) for item in value] if isinstance(value, list) else value


@given(st.lists(OBJECTS, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), OBJECTS))
def test_objects_are_read_as_they_were_written(value: Any) -> None:
    encoded = dump_json(value)
    assert encoded.isascii()
    again = load_json(encoded)
    assert comparable(again) == comparable(value)
    assert dump_json(again) == encoded


@given(EXCEPTIONS)
def test_text_of_an_exception_is_one_line(exception: WireException) -> None:
    assert len(str(exception).splitlines()) == 1
    assert comparable(decode_err_payload(dump_json(exception))) == comparable(exception)


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("2024-01-02"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["__wazuh_exception__", "__wazuh_result__", "__wazuh_datetime__", "__unhandled_exc__", "__callable__"]
                + [
                    "__class__",
                    "__object__",
                    "__args__",
                    "code",
                    "ids",
                    "f",
                    "extra_message",
                    "cmd_error",
                    "dapi_errors",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@given(
    JSONISH
    | st.builds(lambda inner: {"__wazuh_exception__": {"__class__": "WazuhError", "__object__": inner}}, JSONISH)
)
def test_any_json_is_a_value_or_error_1000(value: Any) -> None:
    encoded = dump_json(value)
    for load in (load_json, load_request):
        try:
            load(encoded)
        except ClusterError as refusal:
            outcome = refusal.code
        else:
            outcome = 1000
        assert outcome == 1000
    assert str(decode_err_payload(encoded))


@given(st.binary(max_size=200))
def test_any_err_payload_is_an_exception(payload: bytes) -> None:
    exception = decode_err_payload(payload)
    assert str(exception).startswith(f"Error {exception.code} - ")


def test_datetime_without_zone_stays_without_zone() -> None:
    assert load_json(dump_json(datetime(2024, 1, 1))) == datetime(2024, 1, 1)
