"""What the API of a stock worker asks its master at a login and at every call (dapi.md 5.8), against the users of this node."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from clusterd.dapi.execution import run
from clusterd.dapi.request import LOCAL_MASTER, ApiRequest, encode_request
from clusterd.settings import Settings
from clusterd.users import USERS_FILE, add_user, make_user
from clusterd.wire.results import WireCallable, WireException, WireResult, dump_json

PASSWORD = "correct horse battery"
CHANGED = 1_700_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    add_user(str(tmp_path), make_user("wazuh-wui", PASSWORD, CHANGED, cost=2))
    return tmp_path


def asked(root: Path, module: str, name: str, **arguments: Any) -> Any:
    request = ApiRequest(f=WireCallable(name, module, name), f_kwargs=arguments, request_type=LOCAL_MASTER)
    return run(encode_request(request), Settings(root=str(root)), serves_store=False)


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


def test_without_users_nobody_gets_in(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert is_password(tmp_path, "wazuh-wui", PASSWORD) == {"result": False}
    assert answer(tmp_path, "wazuh.rbac.preprocessor", "get_permissions", user_id="wazuh-wui") == {"roles": []}
