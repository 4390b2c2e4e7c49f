"""The front door: who is let in, what is refused before anybody is asked, what answers and failures look like."""

import asyncio
import base64
import contextlib
import time
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest

from clusterd.api.app import Api
from clusterd.api.logins import Logins
from clusterd.api.problem import Refused
from clusterd.api.tokens import ALGORITHM, AUDIENCE, ISSUER, Tokens
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.listening.attempts import HASHES_AT_ONCE, HASHES_WAITING, AttemptLimiter
from clusterd.settings import ApiSettings, Secret
from clusterd.users import User, UserProblem, make_user
from clusterd.wire.results import BAD_REQUEST, INTERNAL_ERROR, NOT_FOUND, PERMISSION_ERROR, WireException, WireResult
from tests.api.harness import PASSWORD, SECRET, Answer, Door, FakeNode, one_user, plain

PROBLEM = "application/problem+json; charset=utf-8"
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def door() -> Door:
    return Door()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# ---- tokens and logins -----------------------------------------------------------------------------------------------


def test_a_login_gives_a_token_that_lets_in(door: Door) -> None:
    answer = door.login()
    assert answer.json().keys() == {"data", "error"}
    token = answer.json()["data"]["token"]
    assert door.send("GET", "/agents", headers=bearer(token)).status_code == 200


def test_a_raw_login_gives_the_bare_token(door: Door) -> None:
    answer = door.login(params={"raw": "true"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert door.send("GET", "/", headers=bearer(answer.text)).json()["data"]["title"] == "clusterd REST API"


@pytest.mark.parametrize(
    ("name", "password"), [("admin", "wrong password"), ("nobody", PASSWORD), ("admin", ""), ("", "")]
)
def test_a_wrong_name_or_password_is_401_with_the_same_words(door: Door, name: str, password: str) -> None:
    answer = door.login(name, password)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert answer.json() == {"title": "Unauthorized", "detail": "the user's name or password is wrong", "error": 401}


@pytest.mark.parametrize("header", ["", "Basic", "Basic !!!!", "Basic AAAA", "Bearer x", "Basic " + "A" * 10_000])
def test_odd_login_headers_are_401(door: Door, header: str) -> None:
    answer = door.send("POST", "/security/user/authenticate", headers={"Authorization": header})
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/", "/agents", "/cluster/nodes", "/agents?nonsense=1", "/manager/logs"])
def test_without_a_token_nothing_is_told(door: Door, path: str) -> None:
    answer = door.send("GET", path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == PROBLEM
    assert door.node.asked == []


def claims(**changes: object) -> dict[str, object]:
    now = int(time.time())
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "admin", "iat": now, "nbf": now, "exp": now + 900} | changes


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1_000_000_000},
        {"nbf": 4_000_000_000, "exp": 4_000_000_900},
        {"aud": "another API"},
        {"iss": "wazuh"},
        {"sub": "nobody"},
        {"sub": 7},
        {"iat": "now"},
    ],
    ids=str,
)
def test_a_token_with_wrong_claims_is_refused(door: Door, changed: dict[str, object]) -> None:
    token = jwt.encode(claims(**changed), SECRET.value, algorithm=ALGORITHM)
    assert door.send("GET", "/agents", headers=bearer(token)).status_code == 401


def test_a_token_of_another_secret_or_algorithm_or_without_expiry_is_refused(door: Door) -> None:
    unbounded = claims()
    del unbounded["exp"]
    tokens = [
        jwt.encode(claims(), b"another secret that is long enough for the algorithm, which wants 64 bytes", ALGORITHM),
        jwt.encode(claims(), SECRET.value, algorithm="HS256"),
        jwt.encode(claims(), "", algorithm="none"),
        jwt.encode(unbounded, SECRET.value, algorithm=ALGORITHM),
        "x" * 100_000,
        "a.b.c",
    ]
    assert [door.send("GET", "/agents", headers=bearer(token)).status_code for token in tokens] == [401] * len(tokens)
    assert door.send("GET", "/agents", headers=bearer(jwt.encode(claims(), SECRET.value, ALGORITHM))).status_code == 200


def test_a_token_is_void_when_its_user_goes_or_has_a_new_password(door: Door) -> None:
    token = Tokens(lambda: SECRET, 900).issue("admin", time.time() - 10)
    assert door.send("GET", "/agents", headers=bearer(token)).status_code == 200
    door.users = {"admin": make_user("admin", "another password", time.time())}
    assert door.send("GET", "/agents", headers=bearer(token)).status_code == 401
    door.users = {}
    assert door.send("GET", "/agents", headers=bearer(token)).status_code == 401


def test_guessing_from_one_address_ends_in_429_also_for_the_right_password() -> None:
    door = Door(login_attempts=3)
    codes = [door.login("admin", "wrong password").status_code for _ in range(4)]
    assert codes == [401, 401, 401, 429]
    refused = door.login()
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 300
    door.address = "192.0.2.8"
    assert door.login("other", "wrong password").status_code == 401


def test_one_user_guessed_at_from_many_addresses_is_closed_but_for_where_it_logged_in_before() -> None:
    door = Door(login_attempts=3)
    assert door.login().status_code == 200
    codes = []
    for last in range(10, 15):
        door.address = f"198.51.100.{last}"
        codes.append(door.login("admin", "wrong password").status_code)
    assert codes == [401, 401, 401, 429, 429]
    door.address = "192.0.2.7"
    assert door.login().status_code == 200


def test_logins_are_told_to_the_journal_and_no_name_that_is_no_users() -> None:
    told: list[Any] = []

    async def story() -> None:
        logins = Logins(AttemptLimiter(2, 300), lambda: {"admin": one_user()}, clock=lambda: 0.0, tell=told.append)
        for name, password in (("admin", PASSWORD), ("hunter2", "x"), ("admin", "guess"), ("admin", "guess")):
            header = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
            with contextlib.suppress(Refused):
                await logins.user_of(header, "198.51.100.7")

    asyncio.run(story())
    assert [(event.user, event.address, event.result) for event in told] == [
        ("admin", "198.51.100.7", "ok"),
        ("", "198.51.100.7", "refused"),
        ("admin", "198.51.100.7", "refused"),
        ("admin", "198.51.100.7", "limited"),
    ]


def test_good_logins_never_count() -> None:
    door = Door(login_attempts=2)
    assert [door.login().status_code for _ in range(5)] == [200] * 5


def test_many_logins_at_once_are_bounded() -> None:
    async def storm() -> list[int]:
        limiter = AttemptLimiter(1000, 300)
        logins = Logins(limiter, lambda: {"admin": one_user()}, clock=lambda: 0.0)
        header = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        for _ in range(HASHES_AT_ONCE):
            await logins.checks.turns.acquire()
        attempts = [asyncio.create_task(logins.user_of(header, "192.0.2.7")) for _ in range(HASHES_WAITING + 8)]
        await asyncio.sleep(0)
        refused = [attempt.exception().status for attempt in attempts if attempt.done()]  # type: ignore[union-attr]
        for _ in range(HASHES_AT_ONCE):
            logins.checks.turns.release()
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert outcomes.count("admin") == HASHES_WAITING
        return refused

    assert asyncio.run(storm()) == [429] * 8


def test_a_login_whose_password_nobody_looked_at_does_not_count() -> None:
    """Refused because there were too many at once, gone while it waited, or the users could not be read."""
    limiter = AttemptLimiter(HASHES_WAITING + 1, 300)
    readable = True

    def users() -> dict[str, User]:
        if not readable:
            raise UserProblem("not now")
        return {"admin": one_user()}

    def header(password: str = PASSWORD) -> str:
        return "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()

    async def storm() -> None:
        nonlocal readable
        logins = Logins(limiter, users, clock=lambda: 0.0)
        for _ in range(HASHES_AT_ONCE):
            await logins.checks.turns.acquire()
        waiting = [asyncio.create_task(logins.user_of(header(), "192.0.2.7")) for _ in range(HASHES_WAITING)]
        await asyncio.sleep(0)
        for _ in range(5):
            with pytest.raises(Refused, match="at once"):
                await logins.user_of(header(), "192.0.2.7")
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for _ in range(HASHES_AT_ONCE):
            logins.checks.turns.release()
        readable = False
        for _ in range(5):
            with pytest.raises(UserProblem):
                await logins.user_of(header(), "192.0.2.7")
        readable = True
        for _ in range(HASHES_WAITING + 1):
            # All of the attempts are left; those that were looked at count.
            with pytest.raises(Refused, match="wrong"):
                await logins.user_of(header("wrong password"), "192.0.2.7")
        with pytest.raises(Refused, match="too many failed"):
            await logins.user_of(header(), "192.0.2.7")

    asyncio.run(storm())


def test_refused_logins_do_not_fill_the_log() -> None:
    """Whether they guess, are stopped, or send nothing at all."""
    door = Door(login_attempts=3)
    for _ in range(20):
        door.login(password="wrong password")
        door.send("POST", "/security/user/authenticate")
    (line,) = [text for level, text in door.said if level == "WARNING"]
    assert line.startswith("Login from 192.0.2.7 refused")
    door.later_s += 11
    door.login(password="wrong password")
    assert door.said[-1][1].endswith("(39 more since the last line)")
    door.address = "192.0.2.8"
    door.send("POST", "/security/user/authenticate")
    assert door.said[-1][1].startswith("Login from 192.0.2.8 refused")


def test_neither_passwords_nor_tokens_are_logged(door: Door) -> None:
    door.login("admin", "secret guess")
    token = door.token
    door.ask("DELETE", "/groups?groups_list=web")
    text = "\n".join(line for _, line in door.said)
    assert "admin 192.0.2.7 DELETE /groups: 200" in text
    assert "secret guess" not in text
    assert PASSWORD not in text
    assert token not in text
    assert "groups_list" not in text


def test_users_that_cannot_be_read_are_500_and_a_line_in_the_log() -> None:
    said: list[str] = []

    def damaged() -> dict[str, object]:
        raise UserProblem("the file is damaged")

    door = Door()
    door.api = Api(
        FakeNode(),
        ApiSettings(),
        users=damaged,  # type: ignore[arg-type]
        secret=lambda: SECRET,
        longest_s=200,
        say=lambda level, text: said.append(text),
    )
    assert door.send("GET", "/agents", headers=bearer("x")).status_code == 500
    assert said == ["the file is damaged"]


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
def test_a_bad_request_is_refused_before_anybody_is_asked(door: Door, path: str, error: int) -> None:
    answer = door.get(path)
    assert answer.status_code == (404 if error == 404 else 400)
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert body.keys() == {"title", "detail", "error"}
    assert body["error"] == error
    assert door.node.asked == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/groups"), ("DELETE", "/agents/group?group_id=web"), ("PUT", "/agents/group?agents_list=001")],
)
def test_what_would_touch_everything_must_be_said(door: Door, method: str, path: str) -> None:
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
    assert door.node.waited_s == [25, 200]


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
