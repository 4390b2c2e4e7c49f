"""Every function of the registry has its permission, and asks for it in both modes (docs/protocol/dapi.md 3.8)."""

from collections.abc import Iterator
from typing import Any

import pytest

from clusterd.dapi.execution import run
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.access import Scope, check
from clusterd.dapi.protocol.permissions import ATTRIBUTES
from clusterd.dapi.protocol.registry import RegisteredFunction
from clusterd.dapi.protocol.request import ApiRequest, encode_request
from clusterd.settings import ClusterBlock, Settings
from clusterd.wire.results import WireCallable, WireException, WireResult
from tests.contracts.helpers import add_agents
from tests.dapi.agent_node import AgentNode, agent_node

OPEN = {
    "check_user_master",
    "get_permissions",
    "get_security_conf",
    "check_token",
    "get_node_ruleset_integrity",
    "revoke_tokens",
}
"""Functions that an API calls before it knows its user, digests of files that every node has, and what nodes ask of one
another."""
ACTIONS = {
    "agent:create",
    "agent:delete",
    "agent:modify_group",
    "agent:read",
    "cluster:read",
    "cluster:status",
    "decoders:delete",
    "decoders:read",
    "decoders:update",
    "group:create",
    "group:delete",
    "group:modify_assignments",
    "group:read",
    "lists:delete",
    "lists:read",
    "lists:update",
    "rules:delete",
    "rules:read",
    "rules:update",
    "sca:read",
    "security:revoke",
}
WHITE = {"rbac_mode": "white"}
THINGS = {"agent": "001", "group": "web", "rule": "a.xml", "decoder": "a.xml", "list": "a", "node": "m", "*": "*"}
ARGUMENTS: dict[str, Any] = {"content": "<group name='a'></group>", "group_id": "new", "policy_id": "x", "name": "x"}


@pytest.fixture(scope="module")
def node() -> Iterator[AgentNode]:
    with agent_node() as made:
        for path in ("etc/rules/a.xml", "etc/decoders/a.xml", "etc/lists/a"):
            target = made.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("<group name='a'></group>")
        for group in ("web", "db"):
            made.answer("create_group", group_id=group)
        add_agents(made.db, 1, 2)
        made.register((1, 2))
        yield made


def test_the_table_of_permissions() -> None:
    assert {function.shown for function in FUNCTIONS if not function.needs} == OPEN
    assert {need.action for function in FUNCTIONS for need in function.needs} == ACTIONS
    # A function about the cluster's state has no database.
    assert {need.kind for one in FUNCTIONS if one.place == "sync" for need in one.needs} == {"node"}


def asked(function: RegisteredFunction, permissions: dict[str, Any], *, named: bool) -> ApiRequest:
    arguments: dict[str, Any] = {}
    for need in function.needs if named else ():
        if need.argument and need.argument != "group_id":
            thing = THINGS[need.kind]
            plain = function.arguments.__annotations__.get(need.argument) is str
            arguments[need.argument] = thing if plain else [thing]
    name = WireCallable(function.shown, function.module, function.qualname)
    return ApiRequest(f=name, f_kwargs=arguments, rbac_permissions=permissions, nodes=["m", "w"])


def granted(function: RegisteredFunction, effect: str, mode: str) -> dict[str, Any]:
    found: dict[str, Any] = {"rbac_mode": mode}
    for need in function.needs:
        everything = "*:*:*" if need.kind == "*" else f"{need.kind}:{ATTRIBUTES[need.kind]}:*"
        found.setdefault(need.action, {})[everything] = effect
    return found


def outcome(node: AgentNode, function: RegisteredFunction, permissions: dict[str, Any], *, named: bool = True) -> int:
    """Returns 0 or the code; a request that names nothing must show nothing."""
    request = asked(function, permissions, named=named)
    try:
        access = check(function, request, Scope(str(node.root), "m", node.database))
    except WireException as refusal:
        return refusal.code
    if access.names_none:
        return 0 if any(access.request.f_kwargs.get(need.argument) for need in function.needs if need.argument) else -1
    return 0


CHECKED = [function for function in FUNCTIONS if function.needs]


@pytest.mark.parametrize("function", CHECKED, ids=lambda function: function.shown)
def test_both_modes(node: AgentNode, function: RegisteredFunction) -> None:
    assert outcome(node, function, {"rbac_mode": "black"}) == 0
    assert outcome(node, function, WHITE) == 4000
    assert outcome(node, function, WHITE, named=False) in (4000, -1)
    assert outcome(node, function, granted(function, "allow", "white")) == 0
    assert outcome(node, function, granted(function, "deny", "white")) == 4000
    assert outcome(node, function, granted(function, "deny", "black")) == 4000
    assert outcome(node, function, granted(function, "allow", "black")) == 0
    for need in function.needs:
        # Each required permission by itself.
        without = {key: value for key, value in granted(function, "allow", "white").items() if key != need.action}
        assert outcome(node, function, without) == 4000


def executed(node: AgentNode, qualname: str, module: str, permissions: dict[str, Any], **arguments: Any) -> Any:
    settings = Settings(root=str(node.root), cluster=ClusterBlock(node_name="m"), serves_store=True)
    request = ApiRequest(
        f=WireCallable(qualname, module, qualname), f_kwargs=arguments, rbac_permissions=permissions, basic_services=()
    )
    return run(encode_request(request), settings, serves_store=True)


@pytest.mark.parametrize("nothing", [{}, {"filters": {}, "q": "", "agent_list": None}, {"filters": {"status": None}}])
@pytest.mark.parametrize("mode", ["black", "white"])
def test_a_request_to_delete_agents_that_names_none_is_refused(
    node: AgentNode, mode: str, nothing: dict[str, Any]
) -> None:
    """This holds also where permissions would fill in the objects that may be deleted."""
    permissions = {"rbac_mode": mode, "agent:delete": {"agent:id:001": "allow"}}
    answer = executed(node, "delete_agents", "wazuh.agent", permissions, purge=True, **nothing)
    assert isinstance(answer, WireException)
    assert answer.code == 1000
    assert "one of agent_list, filters, q must be given" in str(answer.extra_message)
    for named in ({"agent_list": []}, {"filters": {"status": ["disconnected"], "older_than": "7d"}}, {"q": "id=99999"}):
        assert not isinstance(executed(node, "delete_agents", "wazuh.agent", permissions, **named), WireException)


def test_white_without_permissions_changes_nothing(node: AgentNode) -> None:
    rule = "<group name='x'></group>"
    for qualname, module, arguments in (
        ("upload_rule_file", "wazuh.rule", {"filename": "new.xml", "content": rule}),
        ("upload_decoder_file", "wazuh.decoder", {"filename": "new.xml", "content": rule}),
        ("upload_list_file", "wazuh.cdb_list", {"filename": "new", "content": "a:b"}),
        ("delete_rule_file", "wazuh.rule", {"filename": "a.xml"}),
        ("delete_list_file", "wazuh.cdb_list", {"filename": "a"}),
        ("delete_groups", "wazuh.agent", {"group_list": ["web"]}),
        ("create_group", "wazuh.agent", {"group_id": "new"}),
        ("assign_agents_to_group", "wazuh.agent", {"group_list": ["web"], "agent_list": ["001"]}),
        ("get_agents_keys", "wazuh.agent", {"agent_list": ["001"]}),
    ):
        answer = executed(node, qualname, module, WHITE, **arguments)
        assert isinstance(answer, WireException), qualname
        assert answer.code == 4000
    answer = executed(node, "delete_groups", "wazuh.agent", WHITE)
    assert isinstance(answer, WireResult)
    assert answer.fields["affected_items"] == []
    files = {path.relative_to(node.root).as_posix() for path in (node.root / "etc").rglob("*")}
    assert {"etc/rules/a.xml", "etc/lists/a", "etc/shared/web"} <= files
    assert not [path for path in files if "new" in path]


def test_what_is_permitted_in_part_is_done_in_part(node: AgentNode) -> None:
    for name in ("one", "two"):
        (node.root / f"etc/shared/{name}").mkdir()
    only_one = {"rbac_mode": "white", "group:delete": {"group:id:one": "allow"}}
    answer = executed(node, "delete_groups", "wazuh.agent", only_one, group_list=["one", "two"])
    assert answer.fields["affected_items"] == ["one"]
    assert [key.code if hasattr(key, "code") else key for key in answer.fields["failed_items_keys"]]
    assert not (node.root / "etc/shared/one").exists()
    assert (node.root / "etc/shared/two").exists()
    only_file = {"rbac_mode": "white", "rules:read": {"rule:file:b.xml": "allow"}}
    (node.root / "etc/rules/b.xml").write_text("<group name='b'></group>")
    listed = executed(node, "get_rules_files", "wazuh.rule", only_file)
    assert [item["filename"] for item in listed.fields["affected_items"]] == ["b.xml"]
    assert executed(node, "get_rule_file", "wazuh.rule", only_file, filename="a.xml", raw=True).code == 4000
    assert isinstance(executed(node, "get_rule_file", "wazuh.rule", only_file, filename="b.xml", raw=True), WireResult)


def test_agents_of_a_group_may_be_moved_and_no_others(node: AgentNode) -> None:
    node.db.command(
        'global set-agent-groups {"mode":"override","data":[{"id":1,"groups":["web"]},{"id":2,"groups":["default"]}]}'
    )
    permissions = {
        "rbac_mode": "white",
        "agent:modify_group": {"agent:group:web": "allow"},
        "group:modify_assignments": {"group:id:db": "allow"},
    }
    moved = executed(
        node, "assign_agents_to_group", "wazuh.agent", permissions, group_list=["db"], agent_list=["001", "002"]
    )
    assert moved.fields["affected_items"] == ["001"]
    denied = executed(
        node, "assign_agents_to_group", "wazuh.agent", permissions, group_list=["web"], agent_list=["001"]
    )
    assert denied.code == 4000


def test_replacing_takes_no_agent_out_of_a_group_without_permission(node: AgentNode) -> None:
    node.db.command(
        "global set-agent-groups "
        '{"mode":"override","data":[{"id":1,"groups":["default","web"]},{"id":2,"groups":["default"]}]}'
    )
    permissions = {
        "rbac_mode": "white",
        "agent:modify_group": {"agent:id:*": "allow"},
        "group:modify_assignments": {"group:id:db": "allow", "group:id:default": "allow"},
    }

    def moved(**given: Any) -> Any:
        return executed(
            node,
            "assign_agents_to_group",
            "wazuh.agent",
            permissions,
            group_list=["db"],
            agent_list=["001", "002"],
            replace=True,
            **given,
        )

    answer = moved()
    assert answer.fields["affected_items"] == ["002"]
    assert [key["__object__"]["code"] for key in answer.fields["failed_items_keys"]] == [4000]
    assert answer.fields["failed_items_values"] == [["001"]]
    assert moved(replace_list=["web"]).code == 4000
    # A failure of a named object stays one: only the list of what may be replaced was filled in.
    again = moved()
    assert again.fields["affected_items"] == []
    codes = [key["__object__"]["code"] for key in again.fields["failed_items_keys"]]
    assert sorted(codes) == [1752, 4000]


MOVES_ALL = {"agent:modify_group": {"agent:id:*": "allow"}, "group:modify_assignments": {"group:id:*": "allow"}}
ONLY_TWO = MOVES_ALL | {"agent:modify_group": {"agent:id:001": "allow", "agent:id:002": "allow"}}


@pytest.mark.parametrize(
    "permissions", [{"rbac_mode": "black"}, {"rbac_mode": "white", **MOVES_ALL}, {"rbac_mode": "white", **ONLY_TWO}]
)
def test_what_is_as_wanted_already_is_no_failure_of_a_request_for_all_agents(
    node: AgentNode, permissions: dict[str, Any]
) -> None:
    node.db.command(
        'global set-agent-groups {"mode":"override","data":[{"id":1,"groups":["web"]},{"id":2,"groups":["default"]}]}'
    )

    def moved(qualname: str, **given: Any) -> tuple[list[str], list[int]]:
        fields = executed(node, qualname, "wazuh.agent", permissions, **given).fields
        return fields["affected_items"], [key["__object__"]["code"] for key in fields["failed_items_keys"]]

    assert moved("assign_agents_to_group", group_list=["web"]) == (["002"], [])
    assert moved("assign_agents_to_group", group_list=["web"], replace=True) == (["002"], [])
    assert moved("assign_agents_to_group", group_list=["web"], agent_list=["001"]) == ([], [1751])
    assert moved("remove_agents_from_group", group_list=["web"]) == (["001", "002"], [])
    assert moved("remove_agents_from_group", group_list=["default"]) == ([], [])


@pytest.mark.parametrize("spelled", ["1", "0001", " 001", "1 ", "+1", "\uff10\uff10\uff11"])
@pytest.mark.parametrize("qualname", ["get_agents", "get_agents_keys", "get_agents_sync_group", "get_outdated_agents"])
def test_another_spelling_of_an_id_does_not_bypass_a_permission(node: AgentNode, qualname: str, spelled: str) -> None:
    """An object that does not exist is left to the function, which must not take agent 001 for it."""
    permissions = {"rbac_mode": "white", "agent:read": {"agent:id:002": "allow"}}
    answer = executed(node, qualname, "wazuh.agent", permissions, agent_list=[spelled])
    assert isinstance(answer, WireException) or answer.fields["affected_items"] == []


def test_files_that_only_the_configuration_names_have_permissions_too(node: AgentNode) -> None:
    conf = node.root / "etc/ossec.conf"
    before = conf.read_text() if conf.exists() else None
    conf.write_text(
        "<ossec_config><ruleset><rule_dir>etc/mine</rule_dir><decoder_dir>etc/mine</decoder_dir></ruleset></ossec_config>"
    )
    (node.root / "etc/mine").mkdir(exist_ok=True)
    for name in ("c.xml", "d.xml"):
        (node.root / f"etc/mine/{name}").write_text("<group name='c'></group>")
    try:
        for word in ("rule", "decoder"):
            only_d = {"rbac_mode": "white", f"{word}s:read": {f"{word}:file:d.xml": "allow"}}
            module = f"wazuh.{word}"
            asked_for = executed(node, f"get_{word}_file", module, only_d, filename="c.xml", raw=True)
            assert isinstance(asked_for, WireException)
            assert asked_for.code == 4000
            listed = executed(node, f"get_{word}s_files", module, only_d)
            assert [item["filename"] for item in listed.fields["affected_items"]] == ["d.xml"]
            denied = {"rbac_mode": "black", f"{word}s:read": {f"{word}:file:d.xml": "deny"}}
            listed = executed(node, f"get_{word}s_files", module, denied)
            assert [item["filename"] for item in listed.fields["affected_items"]] == ["c.xml"]
    finally:
        if before is None:
            conf.unlink()
        else:
            conf.write_text(before)
