"""The REST API: what it refuses, and how it shows answers and failures."""

import asyncio
from datetime import UTC, datetime

import pytest

from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.settings import Secret
from clusterd.wire.results import BAD_REQUEST, INTERNAL_ERROR, NOT_FOUND, PERMISSION_ERROR, WireException, WireResult
from tests.api.harness import PASSWORD, PROBLEM, SECRET, Answer, Door, FakeNode, one_user, plain

OCTETS = {"Content-Type": "application/octet-stream"}


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/agents?limit=0", 1406),
        ("/agents?limit=100001", 1405),
        ("/agents?limit=-1", 1401),
        ("/agents?limit=ten", 400),
        ("/agents?offset=-1", 1400),
        ("/agents?offset=", 400),
        ("/cluster/n/logs?limit=501", 1405),
        ("/agents?distinct=yes", 400),
        ("/agents?sort=na me", 400),
        ("/agents?sort=name,", 400),
        ("/agents?search=a;b", 400),
        ("/agents?select=", 400),
        ("/agents?select=a,,b", 400),
        ("/agents?agents_list=1", 400),
        ("/agents?agents_list=001,x", 400),
        ("/agents?status=active,gone", 400),
        ("/agents?nonsense=1", 400),
        ("/agents?offset=1&offset=2", 400),
        ("/agents?q=", 400),
        ("/cluster/nodes?type=boss", 400),
        ("/cluster/..%2f/info", 404),
        ("/cluster/a%20b/info", 400),
        ("/cluster/n/stats?date=2025-02-30", 400),
        ("/cluster/n/stats?date=today", 400),
        ("/groups/web/files/..%2f..%2fclient.keys", 404),
        ("/groups/web/files/a%00b", 400),
        ("/rules/files/a.txt", 400),
        ("/rules/files?relative_dirname=etc/../..", 400),
        ("/lists/files/a.cdb", 400),
        ("/agents/", 404),
        ("/nothing", 404),
    ],
)
def test_a_bad_request_is_refused_before_the_node_is_asked(door: Door, path: str, error: int) -> None:
    answer = door.get(path)
    assert answer.status_code == (404 if error == 404 else 400)
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert body.keys() == {"title", "detail", "error"}
    assert body["error"] == error
    assert door.node.asked == []


def test_parameter_that_does_not_exist_is_named_with_those_that_do(door: Door) -> None:
    detail = door.get("/groups?limit=1&stat%0aus=x").json()["detail"]
    assert detail.startswith("unknown query parameter stat\nus; there are: ")
    assert "limit" in detail


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/groups"), ("DELETE", "/agents/group?group_id=web"), ("PUT", "/agents/group?agents_list=001")],
)
def test_requests_that_affect_everything_must_name_all(door: Door, method: str, path: str) -> None:
    answer = door.ask(method, path)
    assert answer.status_code == 400
    assert "is missing" in answer.json()["detail"]
    assert door.node.asked == []


def test_a_wrong_method_is_405_and_names_the_right_ones(door: Door) -> None:
    answer = door.ask("PATCH", "/groups")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "DELETE"}
    assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    ("content", "headers", "status", "error"),
    [
        (b"<a/>", {"Content-Type": "text/html"}, 406, 6002),
        (b"<a/>", {}, 406, 6002),
        (b"\xff\xfe", OCTETS, 400, 1911),
        (b"", OCTETS, 400, 1912),
        (b"x" * 2000, OCTETS, 413, 413),
    ],
)
def test_a_bad_upload_is_refused(content: bytes, headers: dict[str, str], status: int, error: int) -> None:
    door = Door(request_bytes=1999)
    answer = door.ask("PUT", "/rules/files/a.xml", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert door.node.asked == []


def test_a_body_without_a_length_is_cut_off_at_the_limit() -> None:
    door = Door(request_bytes=1999)

    async def endless() -> object:
        for _ in range(1000):
            yield b"x" * 100

    answer = door.ask("PUT", "/rules/files/a.xml", content=endless(), headers=OCTETS)
    assert answer.status_code == 413


def test_a_body_that_never_ends_is_408() -> None:
    door = Door(request_timeout_s=0.05)

    async def slow() -> object:
        yield b"<a>"
        await asyncio.Event().wait()

    answer = door.ask("PUT", "/rules/files/a.xml", content=slow(), headers=OCTETS)
    assert answer.status_code == 408


def test_an_upload_too_large_for_the_cluster_is_413() -> None:
    door = Door(request_bytes=4 * 1024 * 1024)
    answer = door.ask("PUT", "/lists/files/a", content=("\x01" * 2_000_000).encode(), headers=OCTETS)
    assert answer.status_code == 413
    assert door.node.asked == []


@pytest.mark.parametrize(
    "content", ["[]", '{"group_id": 1}', '{"group_id": "a", "b": "c"}', "{}", "no", '{"group_id": "a/b"}']
)
def test_a_bad_json_body_is_refused(door: Door, content: str) -> None:
    answer = door.ask("POST", "/groups", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert door.node.asked == []


# ---- answers and failures --------------------------------------------------------------------------------------------


def test_items_are_rendered_with_their_failures() -> None:
    def answer(request: ApiRequest) -> Answer:
        items = Items("all", "some", "none", affected=["001", "003"])
        items.fail("010", WireException(1701, wire_class=NOT_FOUND))
        items.fail("9", WireException(1703, wire_class=BAD_REQUEST))
        return items.wire()

    body = Door(FakeNode(answer)).get("/agents").json()
    assert body["error"] == 2
    assert body["message"] == "some"
    assert body["data"]["affected_items"] == ["001", "003"]
    assert [(failed["error"]["code"], failed["id"]) for failed in body["data"]["failed_items"]] == [
        (1701, ["010"]),
        (1703, ["9"]),
    ]


def test_a_plain_result_gets_an_error_of_0() -> None:
    door = Door(FakeNode(lambda request: plain({"data": {"enabled": "yes", "running": "yes"}})))
    assert door.get("/cluster/status").json() == {"data": {"enabled": "yes", "running": "yes"}, "error": 0}


def test_dates_have_an_offset() -> None:
    dates = [datetime(2025, 11, 23, 10, 15, 2), datetime(2025, 11, 23, 10, 15, 2, tzinfo=UTC)]
    door = Door(FakeNode(lambda request: Items("a", affected=dates).wire()))
    assert door.get("/agents").json()["data"]["affected_items"] == ["2025-11-23T10:15:02+00:00"] * 2


def test_pretty_indents_by_three(door: Door) -> None:
    assert door.get("/agents?pretty=true").text.startswith('{\n   "data": {\n      "affected_items"')
    assert "\n" not in door.get("/agents?pretty=false").text


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/rules/files/a.xml", "application/xml; charset=utf-8"),
        ("/lists/files/a", "text/plain; charset=utf-8"),
        ("/groups/web/files/agent.conf", "text/plain; charset=utf-8"),
    ],
)
def test_raw_gives_the_file_itself(path: str, media_type: str) -> None:
    door = Door(FakeNode(lambda request: plain({"message": "<a>ü</a>"})))
    answer = door.get(f"{path}?raw=true")
    assert (answer.text, answer.headers["content-type"]) == ("<a>ü</a>", media_type)
    assert door.get(path).json() == {"message": "<a>ü</a>", "error": 0}
    door.node.answer = lambda request: plain({"data": "<b/>"})
    assert door.get(f"{path}?raw=true").text == "<b/>"
    assert door.get(path).json() == {"data": "<b/>", "error": 0}


@pytest.mark.parametrize(
    ("wire_class", "status", "title"),
    [
        (INTERNAL_ERROR, 500, "Wazuh Internal Error"),
        ("WazuhClusterError", 500, "Wazuh Cluster Error"),
        (BAD_REQUEST, 400, "Bad Request"),
        (PERMISSION_ERROR, 403, "Permission Denied"),
        (NOT_FOUND, 404, "Resource Not Found"),
        ("WazuhTooManyRequests", 429, "Too Many Requests"),
        ("WazuhNotAcceptable", 406, "Not Acceptable"),
    ],
)
def test_a_failure_has_the_status_of_its_class(wire_class: str, status: int, title: str) -> None:
    failure = WireException(4000, "Resource type: node:id", wire_class=wire_class, dapi_errors={"w1": {"error": "x"}})
    answer = Door(FakeNode(lambda request: failure)).get("/agents")
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert list(body) == ["title", "detail", "dapi_errors", "error"]
    assert (body["title"], body["error"], body["dapi_errors"]) == (title, 4000, {"w1": {"error": "x"}})
    assert body["detail"].endswith(": Resource type: node:id")


def test_a_node_that_does_not_run_is_3013() -> None:
    failure = WireException(3012, wire_class=INTERNAL_ERROR)
    door = Door(FakeNode(lambda request: failure))
    assert (door.get("/agents").status_code, door.get("/agents").json()["error"]) == (400, 3013)
    door.node.absent = failure
    assert door.get("/cluster/nodes").json()["error"] == 3013


def test_wait_for_complete_lifts_the_limit_of_the_function_only(door: Door) -> None:
    door.get("/agents")
    door.get("/agents?wait_for_complete=True")
    assert [request.wait_for_complete for request in door.node.asked] == [False, True]
    assert door.node.waited_s == [55, 200]


@pytest.mark.parametrize(
    "result",
    [WireResult("WazuhResult", {"str_priority": None, "result": [1]}), WireResult("AffectedItemsWazuhResult", {})],
)
def test_a_malformed_answer_of_a_peer_is_an_internal_error(result: WireResult) -> None:
    answer = Door(FakeNode(lambda request: result)).get("/agents")
    assert (answer.status_code, answer.json()["error"]) == (500, 1000)


def test_a_bug_is_an_internal_error_that_tells_nothing() -> None:
    def broken(request: ApiRequest) -> Answer:
        raise RuntimeError("secret detail")

    door = Door(FakeNode(broken))
    answer = door.get("/agents")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "secret detail" in door.said[-1][1]


def test_answers_are_counted_and_never_cached(door: Door) -> None:
    assert door.get("/agents").headers["cache-control"] == "no-store"
    door.get("/nothing")
    door.node.answer = lambda request: WireException(1000, wire_class=INTERNAL_ERROR)
    door.get("/agents")
    counters = door.api.counters
    assert (counters.requests, counters.refused, counters.failed) == (3, 1, 1)


def test_the_page_and_the_document_load_nothing_from_elsewhere(door: Door) -> None:
    page = door.send("GET", "/docs")
    assert page.status_code == 200
    assert "/agents/{agent_id}/group/{group_id}" in page.text
    assert "<script" not in page.text
    assert "src=" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert door.send("GET", "/openapi.json").json()["openapi"] == "3.1.0"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/agents", "/nothing", "/"])
def test_no_answer_stands_in_a_frame_or_sends_anything(door: Door, path: str) -> None:
    for answer in (door.get(path), door.send("GET", path), door.send("POST", path)):
        policy = answer.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} <= set(policy)
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_secret_is_never_shown() -> None:
    assert "0123" not in repr(Secret(SECRET.value))
    assert PASSWORD not in repr(one_user())
