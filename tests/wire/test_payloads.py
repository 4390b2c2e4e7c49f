"""Arguments of commands, against the recorded requests and refusals (wire.md 4.1)."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.wire import payloads
from clusterd.wire.results import encode_failure
from tests.wire.vectors import load, payload_of, transcript

REPLIES = load("replies.json")

PARSERS: dict[str, Callable[[bytes], object]] = {
    "hello": payloads.parse_hello,
    "new_str": payloads.parse_length,
    "err_str": payloads.parse_length,
    "str_upd": payloads.split_word,
    "file_upd": payloads.split_word,
    "file_end": payloads.parse_file_end,
    "syn_i_w_m_e": payloads.parse_task_path,
    "syn_m_c_e": payloads.parse_task_path,
    "syn_i_w_m_r": payloads.parse_task_failure,
    "syn_m_c_r": payloads.parse_task_failure,
    "cancel_task": payloads.parse_task_failure,
    "syn_m_a_e": payloads.parse_batch_result,
    "syn_w_g_e": payloads.parse_batch_result,
    "syn_wgc_e": payloads.parse_batch_result,
    "dapi": payloads.parse_addressed,
    "dapi_res": payloads.parse_string_for,
    "dapi_err": payloads.parse_addressed,
    "sendsync": payloads.parse_addressed,
    "sendsyn_res": payloads.parse_string_for,
    "sendsyn_err": payloads.parse_addressed,
}
BAD_ARGUMENTS = (
    "not enough values to unpack",
    "too many values to unpack",
    "invalid literal for int",
    "Expecting value",
)


@pytest.mark.parametrize("case", REPLIES["master"] + REPLIES["worker"], ids=lambda case: case["command"])
def test_arguments_are_refused_with_the_recorded_payload_and_only_then(case: dict[str, Any]) -> None:
    parse = PARSERS.get(case["command"])
    reply = payload_of(case["reply"]["payload"])
    if parse is None or reply.startswith(b"unknown command"):
        return
    extra = json.loads(reply)["__wazuh_exception__"]["__object__"]["extra_message"] if reply[:1] == b"{" else None
    if extra is not None and extra.startswith(BAD_ARGUMENTS):
        with pytest.raises(ClusterError) as refusal:
            parse(payload_of(case["payload"]))
        assert encode_failure(refusal.value) == reply
    else:
        parse(payload_of(case["payload"]))


def test_every_recorded_request_is_read() -> None:
    seen = set()
    for line in transcript():
        if line.get("role") == "request" and line["command"] in PARSERS:
            PARSERS[line["command"]](payload_of(line))
            seen.add(line["command"])
    assert {"hello", "new_str", "str_upd", "file_upd", "file_end", "syn_i_w_m_e", "syn_m_c_e", "syn_m_a_e"} <= seen
    assert {"syn_w_g_e", "syn_wgc_e", "dapi", "dapi_res", "sendsync", "sendsyn_res", "sendsyn_err"} <= seen


def test_recorded_requests_are_written_back_to_the_same_bytes() -> None:
    for line in transcript():
        if line.get("role") != "request":
            continue
        payload = payload_of(line)
        if line["command"] == "hello":
            assert payloads.build_hello(payloads.parse_hello(payload)) == payload
        elif line["command"] in ("syn_i_w_m_e", "syn_m_c_e"):
            assert payloads.build_words(*payloads.parse_task_path(payload)) == payload
        elif line["command"] in ("dapi", "sendsync", "sendsyn_err"):
            assert payloads.build_words(*payloads.parse_addressed(payload)) == payload
        elif line["command"] in ("dapi_res", "sendsyn_res"):
            assert payloads.build_words(*payloads.parse_string_for(payload)) == payload
        elif line["command"] in ("syn_m_a_e", "syn_w_g_e", "syn_wgc_e"):
            assert payloads.build_batch_result(payloads.parse_batch_result(payload)) == payload


def test_failure_of_a_task_is_written_and_read() -> None:
    built = payloads.build_task_failure("9b7042d2-e79a-49bb-8af7-b81391d89874", ClusterError(3039))
    assert built == (
        b'9b7042d2-e79a-49bb-8af7-b81391d89874 {"__wazuh_exception__": {"__class__": "WazuhClusterError", '
        b'"__object__": {"type": "about:blank", "title": "Wazuh Cluster Error", "code": 3039, "extra_message": null, '
        b'"extra_remediation": null, "cmd_error": false, "dapi_errors": {}}}}'
    )
    failure = payloads.parse_task_failure(built)
    assert (failure.task_id, failure.error.code) == ("9b7042d2-e79a-49bb-8af7-b81391d89874", 3039)
    assert payloads.parse_task_failure(payloads.build_task_failure(None, ClusterError(3020, "x"))).task_id is None


@pytest.mark.parametrize("length", [b"", b"-1", b"+1", b" 1", b"1_000", b"1.0", b"\xd9\xa3", b"9" * 21])
def test_length_is_plain_digits(length: bytes) -> None:
    with pytest.raises(ClusterError):
        payloads.parse_length(length)


@pytest.mark.parametrize(
    "parse", [*dict.fromkeys(PARSERS.values()), payloads.parse_caps, payloads.parse_sendsync], ids=lambda p: p.__name__
)
@pytest.mark.parametrize(
    "payload", [b"", b"\xff\xfe\xfd", b"\xff \xff", b" ", b"[" * 100_000, b"null", b'{"a":"\xff"}']
)
def test_any_input_is_a_value_or_error_1000(parse: Callable[[bytes], object], payload: bytes) -> None:
    try:
        parse(payload)
    except ClusterError as refusal:
        code = refusal.code
    else:
        code = 1000
    assert code == 1000


@pytest.mark.parametrize("count", [b"-1", b"9" * 13, b"9" * 4000, b"1e3", b"true", b"NaN"])
def test_count_that_no_status_could_hold_is_none(count: bytes) -> None:
    with pytest.raises(ClusterError) as refusal:
        payloads.parse_batch_result(b'{"updated_chunks": %b, "error_messages": [], "time_spent": 1}' % count)
    assert refusal.value.code == 1000
    with pytest.raises(ClusterError):
        payloads.parse_listed(b'{"counts": {"missing": %b, "shared": 0, "extra": 0}}' % count)


def test_argument_with_a_space_is_never_written() -> None:
    with pytest.raises(ValueError):
        payloads.build_words("two words", b"rest")
    with pytest.raises(ValueError):
        payloads.build_hello(payloads.Hello("a b", "wazuh", "worker", "4.14.1"))


def test_caps_is_a_short_list_of_texts() -> None:
    assert payloads.parse_caps(b'["digest", "push"]') == ["digest", "push"]
    for wrong in (b"{}", b"[1]", json.dumps(["x"] * 65).encode()):
        with pytest.raises(ClusterError):
            payloads.parse_caps(wrong)


def test_sendsync_names_a_daemon_and_a_message() -> None:
    request = payloads.parse_sendsync(b'{"daemon_name": "authd", "message": {"function": "add"}}')
    assert (request.daemon_name, request.message) == ("authd", {"function": "add"})
    assert payloads.parse_sendsync(b'{"message": "global sql", "daemon_name": "wazuh-db"}').message == "global sql"
    for wrong in (b"{", b"{}", b'{"daemon_name": "authd"}', b'{"daemon_name": "authd", "message": 1}'):
        with pytest.raises(ClusterError, match="daemon_name"):
            payloads.parse_sendsync(wrong)
    with pytest.raises(ClusterError) as refusal:
        payloads.parse_sendsync(b'{"daemon_name": "authd", "message": {}, "secret": 1}')
    assert "secret" not in str(refusal.value)


# ---- checks by digest ------------------------------------------------------------------------------------------------

DIGEST = "0123456789abcdef" * 2
BUCKETS = bytes(range(256)) * 64


def refused(parse: Callable[[bytes], object], payload: bytes) -> str:
    with pytest.raises(ClusterError) as refusal:
        parse(payload)
    assert refusal.value.code == 1000
    return str(refusal.value)


@pytest.mark.parametrize("dry", [False, True])
def test_digest_check_is_read_back(dry: bool) -> None:
    assert payloads.parse_digest_check(payloads.build_digest_check(DIGEST, dry=dry)) == (DIGEST, dry)


def test_digests_that_differ_are_read_back_whatever_bytes_they_have() -> None:
    assert payloads.parse_differs(payloads.build_differs(DIGEST, BUCKETS)) == (DIGEST, BUCKETS)
    assert payloads.parse_differs(payloads.build_differs(DIGEST, b"\n" * 16384)) == (DIGEST, b"\n" * 16384)


def test_change_is_read_back() -> None:
    assert payloads.parse_changed(payloads.build_changed(DIGEST, 500)) == (DIGEST, 500)


def test_count_is_read() -> None:
    assert payloads.parse_sync_count(b"sync 12") == 12


def test_list_of_differing_files_is_read_back_with_names_of_any_kind() -> None:
    listed = payloads.Listed(payloads.Counts(3, 0, 1), ["etc/\u00e9\x1b[2J", "etc/\n"], [], ["x"])
    assert payloads.parse_listed(payloads.build_listed(listed, "w1")) == listed
    assert payloads.parse_listed(b"{}") == payloads.Listed()


@pytest.mark.parametrize(
    ("parse", "good"),
    [
        (payloads.parse_digest_check, payloads.build_digest_check(DIGEST, dry=True)),
        (payloads.parse_differs, payloads.build_differs(DIGEST, BUCKETS)),
        (payloads.parse_changed, payloads.build_changed(DIGEST, 500)),
        (payloads.parse_sync_count, b"sync 12"),
    ],
    ids=["syn_digest", "differs", "syn_changed", "sync"],
)
def test_words_of_checks_by_digest_are_refused_unless_whole(parse: Callable[[bytes], object], good: bytes) -> None:
    for bad in (
        b"",
        good[1:],
        b" " + good,
        good + b"\n",
        good + b" x",
        good.upper(),
        good.replace(b" ", b"  "),
        b"\0" * 40,
    ):
        refused(parse, bad)
    assert len(refused(parse, b"x" * 20_000_000)) < 200


@pytest.mark.parametrize("spread", [b"-1", b"1000000", b"1.5", b"x", b"\xd9\xa1"])
def test_spread_is_a_small_number_of_milliseconds(spread: bytes) -> None:
    refused(payloads.parse_changed, DIGEST.encode() + b" " + spread)
