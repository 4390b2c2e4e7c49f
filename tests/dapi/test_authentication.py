"""The requests of a stock worker's API to its master at a login and at every call (dapi.md 5.8), against the users of
this node."""

import asyncio
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from clusterd import users
from clusterd.dapi.execution import as_value, run
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.registry import SyncCall, arguments_of
from clusterd.dapi.protocol.request import LOCAL_MASTER, ApiRequest, encode_request
from clusterd.listening import attempts
from clusterd.settings import ApiSettings, ClusterBlock, Clusterd, Settings
from clusterd.sync.links.roster import Roster
from clusterd.sync.ports.troubles import Troubles
from clusterd.sync.requests.cluster_view import WorkerView
from clusterd.sync.requests.passwords import Passwords
from clusterd.users import USERS_FILE, add_user, make_user
from clusterd.wire.results import WireCallable, WireException, WireResult, dump_json
from tests.fakes.events import Events

PASSWORD = "correct horse battery"
CHANGED = 1_700_000_000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Users with cheap hashes. Checking a user that does not exist costs as much."""
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(users, "_NOBODY", msgspec.structs.replace(users._NOBODY, cost=2))
    add_user(str(tmp_path), make_user("wazuh-wui", PASSWORD, CHANGED, cost=2))
    return tmp_path


def asked(root: Path, module: str, name: str, **arguments: Any) -> Any:
    request = ApiRequest(f=WireCallable(name, module, name), f_kwargs=arguments, request_type=LOCAL_MASTER)
    if name == "check_user_master":
        return asyncio.run(Master(root).asked(request))
    return run(encode_request(request), Settings(root=str(root)), serves_store=False)


class Master:
    """The state that a master's sync keeps for functions about passwords. `later_s` moves its clock."""

    def __init__(self, root: Path, attempts: int = 50) -> None:
        own = Clusterd(api=ApiSettings(login_attempts=attempts, login_window_s=300))
        self.tag = "Master"
        self.settings = Settings(root=str(root), cluster=ClusterBlock(node_type="master"), clusterd=own)
        self.later_s = 0.0
        self.log: list[str] = []
        self.troubles = Troubles()
        self.events = Events()
        self.passwords = Passwords(cast(Any, self))
        self.clusterd_view = WorkerView(Roster(), cast(Any, None), self.passwords.is_right)

    @property
    def clock(self) -> Any:
        return SimpleNamespace(monotonic=lambda: self.later_s)

    def tag_log(self, tag: str, subtag: str) -> Any:
        return SimpleNamespace(warning=self.log.append)

    async def asked(self, request: ApiRequest, asker: str = "w1") -> Any:
        function = FUNCTIONS.find(request.f)
        assert function is not None
        try:
            arguments = arguments_of(function, request.f_kwargs)
            return as_value(await function.work(SyncCall(self.settings, request, self.clusterd_view, asker), arguments))
        except WireException as refusal:
            return refusal

    async def login(self, user: str, password: str, asker: str = "w1") -> bool | int:
        """Returns whether the password is right, or the code of the refusal."""
        given = {"user": user, "password": password}
        name = WireCallable("check_user_master", "api.authentication", "check_user_master")
        found = await self.asked(ApiRequest(f=name, f_kwargs=given, request_type=LOCAL_MASTER), asker)
        return found.code if isinstance(found, WireException) else bool(found.fields["result"]["result"])


def answer(root: Path, module: str, name: str, **arguments: Any) -> Any:
    found = asked(root, module, name, **arguments)
    assert isinstance(found, WireResult), found
    assert found.wire_class == "WazuhResult"
    return found.fields["result"]


def is_password(root: Path, user: str, password: str) -> Any:
    return answer(root, "api.authentication", "check_user_master", user=user, password=password)


def token(**changed: Any) -> dict[str, Any]:
    return {
        "username": "wazuh-wui",
        "roles": [1],
        "token_nbf_time": int(time.time()),
        "run_as": False,
        "origin_node_type": "worker",
    } | changed


def checked(root: Path, **changed: Any) -> Any:
    return answer(root, "api.authentication", "check_token", **token(**changed))


def test_the_right_password_is_right_and_no_other(root: Path) -> None:
    assert is_password(root, "wazuh-wui", PASSWORD) == {"result": True}
    for user, password in (
        ("wazuh-wui", "wrong horse battery"),
        ("wazuh-wui", ""),
        ("nobody", PASSWORD),
        ("", ""),
        ("../etc/passwd", PASSWORD),
        ("wazuh-wui", "x" * 100_000),
    ):
        assert is_password(root, user, password) == {"result": False}


def test_a_reader_does_not_get_in_through_a_workers_api(root: Path) -> None:
    """Otherwise its API would allow more than this node knows of."""
    users.set_role(str(root), "wazuh-wui", "reader")
    refused = asked(root, "api.authentication", "check_user_master", user="wazuh-wui", password=PASSWORD)
    assert isinstance(refused, WireException)
    assert (refused.code, refused.wire_class) == (4000, "WazuhPermissionError")
    assert is_password(root, "wazuh-wui", "wrong horse battery") == {"result": False}
    assert answer(root, "wazuh.rbac.preprocessor", "get_permissions", user_id="wazuh-wui") == {"roles": []}
    assert checked(root) == {"valid": False, "policies": {}}
    users.set_role(str(root), "wazuh-wui", "admin")
    assert is_password(root, "wazuh-wui", PASSWORD) == {"result": True}
    assert checked(root)["valid"]


def test_guesses_through_a_node_are_limited(root: Path) -> None:
    async def story() -> None:
        master = Master(root, attempts=3)
        for _ in range(3):
            assert await master.login("wazuh-wui", "guess") is False
        assert await master.login("wazuh-wui", PASSWORD) == 6000, "the user, whoever asks"
        assert await master.login("wazuh-wui", PASSWORD, "w2") == 6000
        assert list(master.troubles.shown()) == ["logins through w1", "logins through w2"]
        (line, _) = master.log
        assert line == "Too many failed logins through w1, of one user or in all: refused for 300 s."
        master.later_s = 301
        assert await master.login("wazuh-wui", PASSWORD) is True
        for number in range(30):
            assert await master.login(f"user{number}", "guess") is False
        assert await master.login("wazuh-wui", PASSWORD) == 6000, "the node, for all users"
        assert await master.login("wazuh-wui", PASSWORD, "w2") is True

    asyncio.run(story())


def test_logins_are_in_the_journal_with_names_of_users_only(root: Path) -> None:
    async def story() -> None:
        master = Master(root, attempts=2)
        await master.login("wazuh-wui", PASSWORD)
        await master.login("hunter2", "guess")
        for _ in range(3):
            await master.login("wazuh-wui", "guess", "w2")
        told = [(event.user, event.through, event.result) for event in master.events.told]  # type: ignore[union-attr]
        assert told == [
            ("wazuh-wui", "w1", "ok"),
            ("", "w1", "refused"),
            *[("wazuh-wui", "w2", "refused")] * 2,
            ("wazuh-wui", "w2", "limited"),
        ]

    asyncio.run(story())


def test_a_user_under_attack_logs_in_from_where_it_has_logged_in_before(root: Path) -> None:
    async def story() -> None:
        master = Master(root, attempts=3)
        assert await master.login("wazuh-wui", PASSWORD, "w2") is True
        for _ in range(4):
            await master.login("wazuh-wui", "guess", "w1")
        assert await master.login("wazuh-wui", PASSWORD, "w1") == 6000
        assert await master.login("wazuh-wui", PASSWORD, "w2") is True

    asyncio.run(story())


def test_one_password_is_checked_at_a_time_and_few_wait(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0
    gate = threading.Event()

    def slow(user: Any, password: str) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gate.wait(60)
        running -= 1
        return False

    monkeypatch.setattr(attempts, "is_password", slow)

    async def story() -> None:
        master = Master(root, attempts=1000)
        logins = [asyncio.create_task(master.login("wazuh-wui", "guess")) for _ in range(400)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [one.result() for one in logins if one.done()]
        assert refused == [6000] * (400 - attempts.HASHES_WAITING)
        for one in logins[:10]:
            one.cancel()
        gate.set()
        outcomes = await asyncio.gather(*logins, return_exceptions=True)
        assert outcomes.count(False) == attempts.HASHES_WAITING - 10
        assert master.troubles.shown() == {}, "nobody has guessed"

    asyncio.run(story())
    assert most == 1


def test_every_user_has_the_one_role(root: Path) -> None:
    assert answer(root, "wazuh.rbac.preprocessor", "get_permissions", user_id="wazuh-wui") == {"roles": [1]}
    assert answer(root, "wazuh.rbac.preprocessor", "get_permissions", user_id="nobody") == {"roles": []}
    context = {"department": "admins"}
    assert answer(root, "wazuh.rbac.preprocessor", "get_permissions", user_id="wazuh-wui", auth_context=context) == {
        "roles": []
    }


def test_tokens_are_good_as_long_as_the_setting_says(root: Path) -> None:
    conf = answer(root, "api.authentication", "get_security_conf")
    assert conf == {"auth_token_exp_timeout": 900, "rbac_mode": "black"}
    now = int(time.time())
    assert checked(root)["valid"] is True
    assert checked(root, token_nbf_time=now - 890)["valid"] is True
    assert checked(root, token_nbf_time=now - 901)["valid"] is False


@pytest.mark.parametrize(
    "changed",
    [
        {"username": "nobody"},
        {"roles": []},
        {"roles": [1, 2]},
        {"roles": [7]},
        {"run_as": True},
        {"token_nbf_time": CHANGED - 1},
        {"token_nbf_time": 2**62},
    ],
    ids=json.dumps,
)
def test_a_token_that_is_not_good_has_no_policies(root: Path, changed: dict[str, Any]) -> None:
    assert checked(root, **changed) == {"valid": False, "policies": {}}


def test_a_good_token_may_do_what_nodes_check(root: Path) -> None:
    policies = checked(root)["policies"]
    assert policies["agent:read"]["agent:id:*"] == "allow"
    assert policies["cluster:read"]["node:id:*"] == "allow"


def test_a_token_older_than_the_password_is_void(root: Path) -> None:
    now = int(time.time())
    add_user(str(root), make_user("wazuh-wui", "a new pass phrase", now, cost=2))
    assert checked(root, token_nbf_time=now - 5)["valid"] is False
    assert checked(root, token_nbf_time=now)["valid"] is True


def test_a_password_that_was_set_while_the_clock_was_ahead_does_not_void_todays_tokens(root: Path) -> None:
    now = int(time.time())
    add_user(str(root), make_user("wazuh-wui", "a new pass phrase", now + 86_400, cost=2))
    assert checked(root, token_nbf_time=now)["valid"] is True
    assert checked(root, token_nbf_time=now - 901)["valid"] is False


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"user": "wazuh-wui"},
        {"user": ["wazuh-wui"], "password": PASSWORD},
        {"user": "wazuh-wui", "password": PASSWORD, "admin": True},
    ],
    ids=["none", "no password", "a list", "one more"],
)
def test_credentials_of_another_form_are_refused_and_not_repeated(root: Path, arguments: dict[str, Any]) -> None:
    found = asked(root, "api.authentication", "check_user_master", **arguments)
    assert isinstance(found, WireException)
    assert found.code == 1000
    assert PASSWORD not in dump_json(found).decode()


def test_users_that_cannot_be_read_are_1000_without_a_reason(root: Path) -> None:
    (root / USERS_FILE).write_text('{"users": [{"name": "secret"}]}')
    found = asked(root, "api.authentication", "check_user_master", user="wazuh-wui", password=PASSWORD)
    assert isinstance(found, WireException)
    assert found.code == 1000
    assert "secret" not in dump_json(found).decode()
    assert str(root) not in dump_json(found).decode()


@pytest.mark.slow
def test_without_users_no_login_succeeds(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert is_password(tmp_path, "wazuh-wui", PASSWORD) == {"result": False}
    assert answer(tmp_path, "wazuh.rbac.preprocessor", "get_permissions", user_id="wazuh-wui") == {"roles": []}
