"""Requests are passed to the framework unopened: nothing in them makes this node import or build anything
(docs/protocol/dapi.md 8.1)."""

import json
from typing import Any

import pytest

from clusterd.dapi.protocol.request import LARGEST_REQUEST, ApiRequest, encode_request
from clusterd.dapi.protocol.unopened import check_unopened
from clusterd.errors import ClusterError
from clusterd.wire.results import WireCallable

F = WireCallable("get_users", "wazuh.security", "get_users")
MARKERS = ("__callable__", "__unhandled_exc__", "__wazuh_exception__", "__wazuh_result__")
SYSTEM = {"__name__": "system", "__module__": "os", "__qualname__": "system", "__type__": "function"}


def asked(arguments: Any, **fields: Any) -> bytes:
    plain = json.loads(encode_request(ApiRequest(f=F)))
    return json.dumps(plain | {"f_kwargs": arguments} | fields).encode()


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        {},
        {"user_ids": ["1", "2"], "select": None},
        {"date": {"__wazuh_datetime__": "2025-11-23T00:00:00"}},
        {"content": 'the words "__callable__": {} and __wazuh_result__ in a file'},
        {"content": "__callable__"},
        {"names": ["__callable__", "__unhandled_exc__"]},
        {"content": "\\u0041 \\\\u005f é \u2028 \x00 \x7f"},
        {"content": "x" * 4_000_000},
        {"content": "\\u0041" * 1000},
        {"content": "é" * 600_000},
    ],
)
def test_ordinary_requests_pass(arguments: Any) -> None:
    check_unopened(asked(arguments))


def test_every_key_that_stock_knows_passes() -> None:
    check_unopened(asked({}, debug=False, remove_denied_nodes=True, nodes=None, basic_services=None, api_timeout=10.5))


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("depth", [0, 1, 7, 40])
@pytest.mark.parametrize("where", ["f_kwargs", "rbac_permissions"])
def test_markers_are_refused_at_any_depth(marker: str, depth: int, where: str) -> None:
    hidden: Any = {marker: SYSTEM}
    for level in range(depth):
        hidden = {"a": hidden} if level % 2 else [1, hidden]
    content = asked({}, **{where: {"a": hidden}})
    for spelled in (content, content.replace(b'__": ', b'__"\t\n : ')):
        with pytest.raises(ClusterError, match="may only be named"):
            check_unopened(spelled)


@pytest.mark.parametrize(
    "spelling", [r"\u005f_callable__", r"__\u0063allable__", r"__callabl\u0065__", r"\u005F\u005Fcallable__"]
)
@pytest.mark.parametrize("before", ["", r"\\", r"\\\\"])
def test_markers_in_other_letters_are_refused(spelling: str, before: str) -> None:
    content = asked({"MARKER": SYSTEM, "text": "TEXT"}).decode().replace("MARKER", spelling).replace("TEXT", before)
    json.loads(content)
    with pytest.raises(ClusterError, match="as numbers"):
        check_unopened(content.encode())
    with pytest.raises(ClusterError, match="as numbers"):
        check_unopened(asked({"text": "MARKER"}).decode().replace("MARKER", before + spelling).encode())


def test_texts_that_cannot_be_distinguished_from_such_letters_are_refused() -> None:
    """There are too many of them to look at each."""
    for text in ("\\u0041" * 1001, "\\" * 100 + "u0041"):
        with pytest.raises(ClusterError, match="as numbers"):
            check_unopened(asked({"content": text}))


def test_second_function_beside_the_first_is_refused() -> None:
    double = asked({}).replace(b'{"f": ', b'{"f": {"__callable__": {}}, "f": ', 1)
    with pytest.raises(ClusterError, match="may only be named"):
        check_unopened(double)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [10_000, 1_000_000])
@pytest.mark.parametrize("where", ["f_kwargs", "rbac_permissions", "f"])
def test_nesting_without_end_is_refused(opening: str, levels: int, where: str) -> None:
    closing = "]" if opening == "[" else "}"
    deep = (opening * levels + "1" + closing * levels)[:2_000_000]
    with pytest.raises(ClusterError, match=r"nested too deeply|malformed"):
        check_unopened(asked({}, **{where: "DEEP"}).replace(b'"DEEP"', f'{{"a": {deep}}}'.encode()))


@pytest.mark.parametrize(
    "fields",
    [
        {"f_kwargs": []},
        {"f_kwargs": "text"},
        {"rbac_permissions": [1]},
        {"nodes": "w1"},
        {"nodes": [1]},
        {"nodes": ["w1"] * 100_000},
        {"basic_services": [None]},
        {"basic_services": {}},
        {"current_user": None},
        {"current_user": {}},
        {"api_timeout": "1"},
        {"is_async": 1},
        {"local_client_arg": "lc"},
        {"logger": "x"},
        {"node": {}},
        {"request_type": "everywhere"},
        {"api_timeout": float("nan")},
        {"f_kwargs": {"a": float("inf")}},
    ],
)
def test_other_keys_and_types_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ClusterError, match="malformed"):
        check_unopened(asked({}, **fields))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe{\x00", asked({})[:-1], asked({}) + b"{}"])
def test_what_is_no_request_is_refused(content: bytes) -> None:
    with pytest.raises(ClusterError):
        check_unopened(content)
    with pytest.raises(ClusterError):
        check_unopened(asked({}).decode().encode("utf-16"))


def test_too_large_ones_are_refused() -> None:
    with pytest.raises(ClusterError, match="limit"):
        check_unopened(asked({"content": "x" * LARGEST_REQUEST}))
