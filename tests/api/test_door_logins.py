"""Tokens and logins of the REST API: which are accepted, which are limited, and what is logged about them."""

import asyncio
import base64
import contextlib
import time
from typing import Any

import jwt
import pytest

from clusterd.api.app import Api
from clusterd.api.logins import Logins
from clusterd.api.problem import Refused
from clusterd.api.tokens import ALGORITHM, AUDIENCE, ISSUER, Tokens
from clusterd.listening.attempts import HASHES_AT_ONCE, HASHES_WAITING, AttemptLimiter
from clusterd.settings import ApiSettings
from clusterd.users import User, UserProblem, make_user
from tests.api.harness import PASSWORD, PROBLEM, SECRET, Door, FakeNode, one_user


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_login_gives_a_token_that_lets_in(door: Door) -> None:
    answer = door.login()
    assert answer.json().keys() == {"data", "error"}
    token = answer.json()["data"]["token"]
    assert door.send("GET", "/agents", headers=bearer(token)).status_code == 200


def test_a_raw_login_gives_the_bare_token(door: Door) -> None:
    answer = door.login(params={"raw": "true"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert door.send("GET", "/", headers=bearer(answer.text)).json()["data"]["title"] == "clusterd REST API"


@pytest.mark.slow
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
def test_without_a_token_nothing_is_shown(door: Door, path: str) -> None:
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


@pytest.mark.slow
def test_a_token_is_void_when_its_user_is_removed_or_has_a_new_password(door: Door) -> None:
    token = Tokens(lambda: SECRET, 900).issue(one_user(), time.time() - 10)
    assert door.send("GET", "/agents", headers=bearer(token)).status_code == 200
    door.users = {"admin": make_user("admin", "another password", time.time())}
    assert door.send("GET", "/agents", headers=bearer(token)).status_code == 401
    door.users = {}
    assert door.send("GET", "/agents", headers=bearer(token)).status_code == 401


@pytest.mark.slow
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


@pytest.mark.slow
def test_logins_are_in_the_journal_but_no_name_that_no_user_has() -> None:
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
        assert outcomes.count(one_user()) == HASHES_WAITING
        return refused

    assert asyncio.run(storm()) == [429] * 8


def test_a_login_whose_password_was_not_checked_does_not_count() -> None:
    """The login is refused because there are too many at once, its client leaves while it waits, or the users cannot be
    read."""
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
            # All attempts are left again, except those whose password was checked.
            with pytest.raises(Refused, match="wrong"):
                await logins.user_of(header("wrong password"), "192.0.2.7")
        with pytest.raises(Refused, match="too many failed"):
            await logins.user_of(header(), "192.0.2.7")

    asyncio.run(storm())


def test_refused_logins_do_not_fill_the_log() -> None:
    """The clients guess passwords, are limited, or send no credentials."""
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
        waits_s=lambda asked_s, complete: 200.0 if complete else min(200.0, asked_s + 45),
        say=lambda level, text: said.append(text),
    )
    assert door.send("GET", "/agents", headers=bearer("x")).status_code == 500
    assert said == ["the file is damaged"]
