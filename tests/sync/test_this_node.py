"""Who executes a request on a node with a framework: the runner on scripted ports, real jobs of the pool
(docs/protocol/framework.md)."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.dapi.protocol.envelope import read_envelope
from clusterd.dapi.protocol.policy import Origin
from clusterd.errors import ClusterError
from clusterd.messages.api import CombineAnswers, PlanRequest, RunFunction
from clusterd.messages.base import INLINE_BYTES, Text
from clusterd.messages.journal import RequestEvent
from clusterd.messages.links import LinkInfo
from clusterd.pool import api as pool
from clusterd.settings import ApiSettings, ClusterBlock, Clusterd, Secret, Settings, WorkerApi
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.framework_port import FrameworkState, NotBegun
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.troubles import Troubles
from clusterd.sync.requests.audit import Audit
from clusterd.sync.requests.blobs import JsonBlobs
from clusterd.sync.requests.masked import with_key, without_key
from clusterd.sync.requests.runner import ApiRunner
from clusterd.token_secret import load_secret
from clusterd.wire.results import WireCallable
from tests.fakes.clock import FakeClock
from tests.fakes.events import Events
from tests.sync.scripted_node import Lines

KEY = "c98b62a9b6169ac5f67dae55ae4a9088"
DONE = (
    b'{"__wazuh_result__": {"__class__": "WazuhResult", "__object__": {"str_priority": null, "result": {"by": "it"}}}}'
)
DENIED = (
    b'{"__wazuh_exception__": {"__class__": "WazuhPermissionError", "__object__": {"type": "about:blank", "title": '
    b'"Permission Denied", "code": 4000, "extra_message": null, "extra_remediation": null, "cmd_error": false, '
    b'"dapi_errors": {}, "ids": []}}}'
)
MASTER, WORKER, CLIENT = "master", "worker", "client"
FRAMEWORK_ONLY = "wazuh.syscheck:files"
LM, DM, LA = "local_master", "distributed_master", "local_any"


class FakePort:
    """A framework that answers what the test says, and keeps what it was asked."""

    def __init__(
        self, *answers: bytes | Exception, state: FrameworkState = "ready", lacks: tuple[str, ...] = ()
    ) -> None:
        self.state: FrameworkState = state
        self.asked: list[dict[str, Any]] = []
        self.contents: list[bytes] = []
        self._answers = list(answers) or [DONE]
        self._lacks = lacks

    def can_run(self, name: WireCallable) -> bool:
        return self.state not in ("off", "absent", "failed") and name.name not in self._lacks

    def answers(self, answer: bytes) -> bool:
        return answer in self._answers

    async def run(self, request: Text, **how: Any) -> Text:
        content = Path(request.path).read_bytes() if request.path else request.payload
        self.contents.append(content)
        self.asked.append(how)
        if not self.can_run(how["name"]):
            raise NotBegun("it is broken")
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Text(answer)


class Jobs:
    """The pool: jobs are run by its own code, at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.ran: list[Any] = []

    async def run(self, job: Any, *, lane: str, **_: Any) -> Any:
        assert lane == "api", "before syncs and hashing"
        self.ran.append(job)
        if isinstance(job, RunFunction):
            return pool.run_function(job, self._settings, lambda: None)
        if isinstance(job, PlanRequest):
            return pool.plan_request(job, self._settings, lambda: None)
        assert isinstance(job, CombineAnswers)
        return pool.combine_answers(job, lambda: None)


class Node:
    """`others`: what other nodes answer; `given`: what they were asked."""

    def __init__(
        self,
        root: Path,
        port: FakePort | None,
        role: str = MASTER,
        worker_api: WorkerApi = "full",
        login_attempts: int = 50,
    ) -> None:
        block = ClusterBlock(node_type=role, node_name="m" if role == MASTER else "w1", key=Secret(KEY.encode()))  # type: ignore[arg-type]
        self.settings = Settings(
            str(root),
            cluster=block,
            clusterd=Clusterd(worker_api=worker_api, api=ApiSettings(login_attempts=login_attempts)),
        )
        spool = Spool(str(root), 1)
        spool.prepare()
        self.spool_dir = Path(spool.new_path("x")).parent
        self.jobs = Jobs(self.settings)
        self.log = Lines()
        self.context = Context(
            settings=self.settings,
            clock=FakeClock(),
            log=cast(Any, self.log),
            jobs=cast(Any, self.jobs),
            spool=spool,
            framework=cast(Any, port),
            **dict.fromkeys(("net", "slabs", "manifests", "sender", "database", "roster"), cast(Any, None)),
            troubles=Troubles(),
            events=cast(Any, Events()),
            progress=[],
        )
        self.texts = JsonBlobs(spool)
        self.given: dict[str, bytes] = {}
        self.others: dict[str, bytes] = {"w1": DONE, "w2": DONE}
        self.runner = ApiRunner(self.context, cast(Any, None), lambda: ["m", *self.others], self._ask, self.texts)

    async def _ask(self, node: str, request: Text, limit_s: float | None) -> Text:
        if node not in self.others:
            raise ClusterError(3022, node)
        self.given[node] = self.texts.read(request, 1 << 30)
        return Text(self.others[node])

    async def run(self, content: bytes, origin: Origin, asker: str = "somebody") -> Any:
        """The answer, decoded; nothing is left in the spool."""
        request = self.texts.write(content)
        answer = await self.runner.run(request, read_envelope(content), origin, asker)
        shown = self.texts.read(answer, 1 << 30)
        self.texts.remove(request, answer)
        assert [path.name for path in self.spool_dir.iterdir()] == []
        return json.loads(shown)


def asked(name: str, arguments: dict[str, Any] | None = None, request_type: str = LM, **fields: Any) -> bytes:
    module, qualname = name.split(":")
    inner = {
        "__name__": qualname.rpartition(".")[2],
        "__module__": module,
        "__qualname__": qualname,
        "__type__": "function",
    }
    return json.dumps(
        {"f": {"__callable__": inner}, "f_kwargs": arguments or {}, "request_type": request_type} | fields
    ).encode()


def ask(node: Node, content: bytes, origin: Origin = "client") -> Any:
    return asyncio.run(node.run(content, origin))


def code_of(answer: Any) -> int:
    code: int = answer["__wazuh_exception__"]["__object__"]["code"]
    return code


def text_of(answer: Any) -> str:
    return str(answer["__wazuh_exception__"]["__object__"]["extra_message"])


# ---- the framework ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("api.authentication:check_user_master", True),
        ("wazuh.security:get_users", True),
        ("wazuh.security:create_user", False),
        ("wazuh.agent:get_full_overview", True),
        ("wazuh.agent:add_agent", False),
        ("wazuh.core.agent:Agent.get_agents_overview", True),
    ],
)
@pytest.mark.parametrize("origin", ["client", "worker"])
def test_a_request_reaches_the_framework_as_it_came(tmp_path: Path, name: str, reads: bool, origin: Origin) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    content = asked(
        name,
        {"date": {"__wazuh_datetime__": "2025-11-23"}, "user_ids": ["1"]},
        rbac_permissions={"rbac_mode": "white", "security:read": {"user:id:1": "allow"}},
        current_user="ann",
        basic_services=["wazuh-db"],
        broadcasting=True,
        nodes=["m", "w1"],
        remove_denied_nodes=True,
        api_timeout=77,
        wait_for_complete=False,
    )
    assert ask(node, content, origin) == json.loads(DONE)
    assert port.contents == [content]
    (how,) = port.asked
    assert (how["is_read_only"], how["timeout_s"], how["asker"]) == (reads, 77, "somebody")
    assert node.jobs.ran == [], "no process of the pool has to do with it"


def test_a_request_may_take_its_time(tmp_path: Path) -> None:
    port = FakePort()
    ask(Node(tmp_path, port), asked("wazuh.agent:get_full_overview", wait_for_complete=True))
    assert port.asked[0]["timeout_s"] is None


def test_large_requests_and_answers_pass_and_leave_no_file(tmp_path: Path) -> None:
    node = Node(tmp_path, None)
    large = b'{"a": "' + b"x" * 2 * INLINE_BYTES + b'"}'

    class Large(FakePort):
        async def run(self, request: Text, **how: Any) -> Text:
            await super().run(request, **how)
            return node.texts.write(large)

    port = Large()
    node.context.framework = cast(Any, port)
    content = asked("wazuh.rule:upload_rule_file", {"content": "y" * 4_000_000})
    assert ask(node, content) == json.loads(large)
    assert port.contents == [content]


@pytest.mark.parametrize(
    ("role", "name", "request_type", "origin"),
    [
        (MASTER, FRAMEWORK_ONLY, LM, "client"),
        (MASTER, "wazuh.security:get_users", DM, "worker"),
        (MASTER, "wazuh.security:get_users", LA, "client"),
        (MASTER, "wazuh.manager:read_ossec_conf", LA, "worker"),
        (WORKER, "wazuh.security:get_users", LM, "master"),
        (WORKER, "wazuh.manager:read_ossec_conf", LA, "master"),
    ],
)
def test_types_and_origins_outside_of_the_table_reach_nobody(
    tmp_path: Path, role: str, name: str, request_type: str, origin: Origin
) -> None:
    port = FakePort()
    node = Node(tmp_path, port, role)
    assert code_of(ask(node, asked(name, request_type=request_type, from_cluster=True), origin)) == 4000
    assert (port.asked, node.jobs.ran) == ([], [])


@pytest.mark.parametrize(
    "name", ["os:system", "wazuh.security:os.system", "wazuh.security:get_user", "wazuh.core.utils:rm"]
)
@pytest.mark.parametrize("request_type", [LM, DM, LA])
def test_unknown_names_reach_nobody(tmp_path: Path, name: str, request_type: str) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    answer = ask(node, asked(name, request_type=request_type))
    assert code_of(answer) == 3009
    assert text_of(answer) == f"function not available: {name.replace(':', '.')}"
    assert (port.asked, node.jobs.ran, node.given) == ([], [], {})


def test_markers_and_foreign_keys_reach_nobody(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    for bad in (
        asked("wazuh.security:get_users", {"a": [{"b": {"__callable__": {"__module__": "os"}}}]}),
        asked("wazuh.security:get_users", {"a": {"__unhandled_exc__": {"__class__": "x", "__args__": ["1"]}}}),
        asked("wazuh.security:get_users", {"a": {"__wazuh_exception__": {"__class__": "x", "__object__": {}}}}),
        asked("wazuh.security:get_users", logger="x"),
        asked("wazuh.security:get_users", local_client_arg="lc"),
    ):
        assert code_of(ask(node, bad)) == 1000
    assert (port.asked, node.jobs.ran) == ([], [])


@pytest.mark.parametrize(("setting", "reads"), [("read", True), ("off", False)])
def test_what_workers_may_not_ask_reaches_nobody(tmp_path: Path, setting: WorkerApi, reads: bool) -> None:
    port = FakePort()
    node = Node(tmp_path, port, worker_api=setting)
    for change in ("wazuh.security:create_user", "wazuh.agent:get_agents_keys", "wazuh.security:remove_users"):
        refusal = ask(node, asked(change), "worker")
        assert code_of(refusal) == 4000
        assert f"worker_api is {setting}" in text_of(refusal)
        assert ask(node, asked(change), "client") == json.loads(DONE), "its own programs may"
    port.asked.clear()
    for kind, name in ((DM, "wazuh.syscheck:run"), (DM, "wazuh.manager:read_ossec_conf")):
        assert code_of(ask(node, asked(name, {"node_list": ["w1"]}, kind, nodes=["w1"]), "worker")) == 4000
    assert (port.asked, node.given) == ([], {})
    assert (ask(node, asked("wazuh.security:get_users"), "worker") == json.loads(DONE)) == reads


@pytest.mark.parametrize(
    ("failure", "code", "wire_class"),
    [
        (ClusterError(3021), 3021, "WazuhInternalError"),
        (ClusterError(1000, "it died"), 1000, "WazuhInternalError"),
    ],
)
def test_failures_of_the_framework_are_the_outcome(
    tmp_path: Path, failure: Exception, code: int, wire_class: str
) -> None:
    node = Node(tmp_path, FakePort(failure))
    answer = ask(node, asked("wazuh.cdb_list:get_path_lists"))
    assert (code_of(answer), answer["__wazuh_exception__"]["__class__"]) == (code, wire_class)
    assert node.jobs.ran == [], "it may have been done"


def login(password: str, user: str = "ann") -> bytes:
    return asked("api.authentication:check_user_master", {"user": user, "password": password})


def verdict(result: object) -> bytes:
    fields = {"str_priority": None, "result": {"result": result}}
    return json.dumps({"__wazuh_result__": {"__class__": "WazuhResult", "__object__": fields}}).encode()


def test_a_login_may_take_as_long_as_a_busy_machine_needs_for_its_password(tmp_path: Path) -> None:
    port = FakePort(verdict(True))
    node = Node(tmp_path, port)
    ask(node, login("right"), "worker")
    ask(node, asked("wazuh.security:get_users"))
    ask(node, asked("api.authentication:check_user_master", {"user": "ann", "password": "x"}, api_timeout=90))
    ask(node, asked("api.authentication:check_user_master", {"user": "ann"}, wait_for_complete=True))
    assert [how["timeout_s"] for how in port.asked] == [60.0, 10.0, 90.0, None]


def test_nobody_guesses_passwords_of_the_framework_without_end(tmp_path: Path) -> None:
    port = FakePort(verdict(False))
    node = Node(tmp_path, port, login_attempts=3)

    async def story() -> None:
        for _ in range(3):
            assert await node.run(login("guess"), "worker", "w1") == json.loads(verdict(False))
        refusal = await node.run(login("guess"), "worker", "w1")
        assert code_of(refusal) == 6000
        assert refusal["__wazuh_exception__"]["__class__"] == "WazuhTooManyRequests"
        assert len(port.asked) == 3
        assert list(node.context.troubles.shown().values()) == [
            "Too many failed logins through w1, of one user or in all: refused for 300 s."
        ]
        assert await node.run(login("guess", "bob"), "worker", "w1") == json.loads(verdict(False))

    asyncio.run(story())


@pytest.mark.parametrize("answer", [verdict(True), DENIED, verdict("x"), b"{}", ClusterError(1000, "it died")])
def test_logins_that_are_right_or_were_not_looked_at_do_not_count(tmp_path: Path, answer: bytes | Exception) -> None:
    port = FakePort(answer)
    node = Node(tmp_path, port, login_attempts=3)
    for _ in range(10):
        ask(node, login("good"), "worker")
    assert len(port.asked) == 10


# ---- who is first ----------------------------------------------------------------------------------------------------


def test_ours_is_asked_first_where_it_is_as_good(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    assert "__wazuh_result__" in ask(node, asked("wazuh.manager:get_status", request_type=LA))
    assert [type(job) for job in node.jobs.ran] == [RunFunction]
    assert port.asked == []


def test_arguments_that_ours_does_not_take_go_to_the_framework(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    content = asked("wazuh.manager:get_status", {"something_new": 1}, LA)
    assert ask(node, content) == json.loads(DONE)
    assert port.contents == [content]
    for without in (None, FakePort(state="failed"), FakePort(lacks=("get_status",))):
        assert code_of(ask(Node(tmp_path, without), content)) == 1000


@pytest.mark.parametrize(
    "port", [FakePort(NotBegun("busy")), FakePort(state="failed"), FakePort(lacks=("get_basic_info",))]
)
def test_ours_stands_in_for_a_framework_that_did_nothing(tmp_path: Path, port: FakePort) -> None:
    node = Node(tmp_path, port)
    answer = ask(node, asked("wazuh.manager:get_basic_info", request_type=LA))
    assert answer["__wazuh_result__"]["__object__"]["affected_items"][0]["path"] == str(tmp_path)


@pytest.mark.parametrize(
    "port", [FakePort(NotBegun("busy")), FakePort(state="failed"), FakePort(lacks=("check_token",))]
)
def test_nobody_stands_in_for_its_users(tmp_path: Path, port: FakePort) -> None:
    """Users of ours are others: they would be logged out, or be let in with the rights of somebody else."""
    node = Node(tmp_path, port)
    token = {"username": "ann", "roles": [1], "token_nbf_time": 1, "run_as": False, "origin_node_type": "master"}
    answer = ask(node, asked("api.authentication:check_token", token), "worker")
    assert code_of(answer) == 3009
    assert "check_token (" in text_of(answer)
    assert node.jobs.ran == []


def test_what_only_a_framework_has_is_not_available_without_one(tmp_path: Path) -> None:
    for port in (None, FakePort(state="off"), FakePort(state="absent")):
        answer = ask(Node(tmp_path, port), asked("wazuh.agent:get_full_overview"))
        assert code_of(answer) == 3009
        assert text_of(answer) == "function not available: wazuh.agent.get_full_overview"
        assert answer["__wazuh_exception__"]["__object__"]["ids"] == ["m"]


# ---- other nodes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [None, FakePort()])
def test_a_master_passes_on_what_it_cannot_do_itself(tmp_path: Path, port: FakePort | None) -> None:
    node = Node(tmp_path, port)
    permissions = {"rbac_mode": "black", "cluster:read": {"node:id:*": "allow"}}
    content = asked(
        "wazuh.manager:read_ossec_conf",
        {"node_id": "w2", "section": "auth"},
        DM,
        nodes=["m", "w1", "w2"],
        rbac_permissions=permissions,
        current_user="ann",
        basic_services=["wazuh-db"],
        wait_for_complete=True,
    )
    assert ask(node, content, "worker") == json.loads(DONE)
    assert list(node.given) == ["w2"]
    given = json.loads(node.given["w2"])
    assert given["f"] == json.loads(content)["f"]
    assert given["f_kwargs"] == {"section": "auth"}
    assert given["rbac_permissions"] == permissions
    assert (given["from_cluster"], given["current_user"], given["basic_services"], given["wait_for_complete"]) == (
        True,
        "ann",
        ["wazuh-db"],
        True,
    )
    assert port is None or port.asked == []


def test_a_broadcast_asks_the_framework_for_this_node_only(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    content = asked("wazuh.manager:get_api_config", {"node_list": "*"}, DM, nodes=["m", "w1", "w2"], broadcasting=True)
    ask(node, content, "worker")
    assert sorted(node.given) == ["w1", "w2"]
    assert json.loads(port.contents[0])["f_kwargs"] == {}
    assert not any(isinstance(job, RunFunction) for job in node.jobs.ran)


def test_what_the_master_spreads_is_executed_by_the_framework_of_a_worker(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port, WORKER)
    content = asked(FRAMEWORK_ONLY, {"agent_list": ["001"]}, DM, from_cluster=True)
    assert ask(node, content, "master") == json.loads(DONE)
    assert port.contents == [content]
    assert code_of(ask(node, asked(FRAMEWORK_ONLY, {"agent_list": ["001"]}, DM), "master")) == 1000
    assert len(port.asked) == 1


# ---- tokens ----------------------------------------------------------------------------------------------------------


REVOCATIONS = ["wazuh.core.security:revoke_tokens", "wazuh.security:wrapper_revoke_tokens"]


@pytest.mark.parametrize("name", REVOCATIONS)
@pytest.mark.parametrize(
    "permissions", [{"rbac_mode": "black"}, {"rbac_mode": "white", "security:revoke": {"*:*:*": "allow"}}]
)
def test_revoking_tokens_reaches_every_node(tmp_path: Path, name: str, permissions: dict[str, Any]) -> None:
    """Also those that the asker may not read."""
    port = FakePort()
    node = Node(tmp_path, port)
    answer = ask(node, asked(name, request_type=DM, rbac_permissions=permissions, broadcasting=True), "worker")
    assert answer == json.loads(DONE)
    assert sorted(node.given) == ["w1", "w2"]
    assert all(json.loads(given)["from_cluster"] for given in node.given.values())
    assert len(port.asked) == 1


@pytest.mark.parametrize("name", REVOCATIONS)
@pytest.mark.parametrize("role", [MASTER, WORKER])
@pytest.mark.parametrize("port", [None, FakePort(), FakePort(DENIED), FakePort(state="failed")])
def test_tokens_of_both_apis_are_revoked_or_none(tmp_path: Path, name: str, role: str, port: FakePort | None) -> None:
    """One answer for two: it is good only if both are done."""
    (tmp_path / "etc").mkdir()
    secret = load_secret(str(tmp_path)).value
    node = Node(tmp_path, port, role)
    node.others.clear()
    answer = ask(
        node, asked(name, request_type=DM, from_cluster=role == WORKER), "master" if role == WORKER else "client"
    )
    is_done = "__wazuh_result__" in answer
    assert is_done == (port is None or (port.state == "ready" and port.answers(DONE)))
    assert (load_secret(str(tmp_path)).value != secret) == is_done
    if port is not None and is_done:
        assert answer == json.loads(DONE)


def test_what_the_framework_revoked_and_ours_could_not_has_failed(tmp_path: Path) -> None:
    (tmp_path / "etc/clusterd-api-token.key").mkdir(parents=True)
    port = FakePort()
    answer = ask(Node(tmp_path, port, WORKER), asked(REVOCATIONS[0], request_type=DM, from_cluster=True), "master")
    assert (code_of(answer), len(port.asked)) == (1000, 1)
    assert "cannot be replaced" in text_of(answer)


def test_a_node_that_did_not_revoke_them_is_told_of(tmp_path: Path) -> None:
    node = Node(tmp_path, FakePort())
    node.others["w2"] = DENIED
    assert code_of(ask(node, asked(REVOCATIONS[0], request_type=DM, broadcasting=True))) == 4000


# ---- the cluster key -------------------------------------------------------------------------------------------------


CONF = f"<cluster>\n<key>{KEY}</key>\n</cluster>"


def test_configurations_leave_without_the_cluster_key(tmp_path: Path) -> None:
    node = Node(tmp_path, None)
    for size in (0, 2 * INLINE_BYTES):
        content = json.dumps({"conf": CONF, "padding": "x" * size}).encode()
        for name, is_masked in (("wazuh.manager:read_ossec_conf", True), ("wazuh.agent:get_agents_keys", False)):
            answer = node.texts.write(content)
            shown = without_key(node.texts, read_envelope(asked(name)), answer, node.settings.cluster.key)
            read = node.texts.read(shown, 1 << 30)
            assert read == (content.replace(KEY.encode(), b"*****") if is_masked else content)
            node.texts.remove(shown)
            assert list(node.spool_dir.iterdir()) == []


def test_a_configuration_written_back_as_it_was_shown_keeps_the_key() -> None:
    shown, key = CONF.replace(KEY, "*****"), Secret(KEY.encode())
    for name, is_restored in (("wazuh.manager:update_ossec_conf", True), ("wazuh.rule:upload_rule_file", False)):
        content = asked(name, {"new_conf": shown}, DM)
        given = with_key(read_envelope(content), content, key)
        assert json.loads(given)["f_kwargs"]["new_conf"] == (CONF if is_restored else shown)


# ---- who did what ----------------------------------------------------------------------------------------------------


def test_changes_by_the_framework_are_in_the_audit(tmp_path: Path) -> None:
    node = Node(tmp_path, FakePort())
    events: list[Any] = []
    audit = Audit(cast(Any, node.log), "Master", events.append)
    info = LinkInfo(1, "worker", "w1")
    peer = cast(Peer, type("P", (), {"info": info, "name": "w1"})())

    def told(content: bytes) -> list[tuple[str, str]]:
        node.log.written.clear()

        async def work(envelope: Any) -> Text:
            return await node.runner.run(Text(content), envelope, "worker", "w1")

        asyncio.run(_as_coroutine(audit.audited(peer, content, work)(read_envelope(content))))
        return [(level, text) for level, _, subtag, text in node.log.written if subtag == "API audit"]

    ((level, text),) = told(
        asked("wazuh.security:create_user", {"username": "x", "password": "secret"}, current_user="ann")
    )
    assert level == "INFO"
    assert text == "create_user (username \"x\"), user 'ann', asked by worker w1: done."
    ((level, text),) = told(asked("wazuh.security:get_users"))
    assert level == "DEBUG2"
    ((level, text),) = told(asked("wazuh.manager:read_ossec_conf", request_type=LM))
    assert (level, text) == ("INFO", "read_ossec_conf asked by worker w1: refused with 4000.")
    # The journal hears of those at INFO: who, what, what became of it, and no argument that may be secret.
    assert events == [
        RequestEvent(
            function="create_user", about='username "x"', user="ann", through="worker w1", result="done", why="done"
        ),
        RequestEvent(function="read_ossec_conf", through="worker w1", result="refused", why="refused with 4000"),
    ]


async def _as_coroutine(work: Any) -> Any:
    return await work
