"""A node whose requests an installed framework answers, with a scripted port and scripted jobs."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

from clusterd.dapi.protocol.envelope import read_envelope
from clusterd.dapi.protocol.policy import Origin
from clusterd.errors import ClusterError
from clusterd.messages.api import CombineAnswers, PlanRequest, RunFunction
from clusterd.messages.base import Text
from clusterd.pool import api as pool
from clusterd.settings import ApiSettings, ClusterBlock, Clusterd, Secret, Settings, WorkerApi
from clusterd.sync.links.context import Context
from clusterd.sync.ports.framework_port import FrameworkState, NotBegun
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.troubles import Troubles
from clusterd.sync.requests.blobs import JsonBlobs
from clusterd.sync.requests.runner import ApiRunner
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
MASTER, WORKER = "master", "worker"
FRAMEWORK_ONLY = "wazuh.syscheck:files"
LM, DM, LA = "local_master", "distributed_master", "local_any"


class FakePort:
    """A framework that gives the test's answer and records the requests."""

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
    """The pool: runs jobs at once, with its own code."""

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
    """`others`: the answers of other nodes; `given`: the requests to them."""

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
        """Returns the answer, decoded. Asserts that the spool is empty."""
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
