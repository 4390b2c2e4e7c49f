"""An API request that this node executes or, on a master, distributes to the nodes (dapi.md 3.5 to 3.7). Whatever
happens, the result is an encoded answer."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from clusterd.dapi.execution import as_answer, refused, shown_node, unexpected
from clusterd.dapi.protocol.envelope import Envelope, read_permissions
from clusterd.dapi.protocol.patience import begins_within_s, function_s, node_answers_s
from clusterd.dapi.protocol.policy import Origin, find
from clusterd.dapi.protocol.registry import Cluster, not_available
from clusterd.dapi.protocol.routing import not_answered, not_connected, place_of
from clusterd.errors import ClusterError
from clusterd.messages.api import CombineAnswers, PlanRequest
from clusterd.messages.base import Text
from clusterd.sync.links.context import Context
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.pool_port import LATE, JobError
from clusterd.sync.requests.blobs import JsonBlobs
from clusterd.sync.requests.this_node import TOOK_TOO_LONG, AdmittedRequest, ThisNode, check_due
from clusterd.wire.results import INTERNAL_ERROR, WireException, dump_json

Ask = Callable[[str, Text, float | None], Awaitable[Text]]
"""Sends a request to a connected node and returns its answer, which must begin to arrive within this many seconds
(None: no limit while the node is connected). Raises ClusterError 3022 for a node that is not connected."""
NOT_CONNECTED = 3022
LOGIN_TIMEOUT_S = 60.0
"""The least time that a login gets. Checking a password costs 0.3 s of CPU: on a machine with 50 busy processes that
takes ten seconds and more, and a user who gets 3021 tries again, at the same cost."""
LONGEST_CHANGE_S = 3600.0
"""How long a function that changes something may run when its asker sets no limit (`wait_for_complete`), or a longer
one. One that only reads may run for as long as anybody waits for an answer. Without an end, functions that hang would
take all places."""
_RELOAD = ("wazuh.analysis", "reload_ruleset")
LARGEST_PART = 64 << 20
"""Most bytes of the request to one node. Written anew it may be several times as long as it came."""


class ApiRunner:
    """Executes requests. `connected`: the master's own name and its workers, on a master."""

    def __init__(
        self, context: Context, cluster: Cluster, connected: Callable[[], list[str]], ask: Ask, texts: JsonBlobs
    ) -> None:
        self._context = context
        self._log = context.tag_log(context.tag, "D API")
        self._here = ThisNode(context, cluster, texts)
        self._connected = connected
        self._ask = ask
        self._texts = texts

    def arrived(self, envelope: Envelope) -> Envelope:
        """The envelope of a request that has just come. One that changes something must begin while its asker waits,
        however long others keep all processes busy: nobody would know that it was done."""
        row = find(envelope.function)
        if row is None or not row.changes:
            return envelope
        settings, complete = self._context.settings, envelope.wait_for_complete
        wait_s = begins_within_s(settings, envelope.api_timeout_s, wait_for_complete=complete)
        return msgspec.structs.replace(envelope, begin_by=self._context.clock.monotonic() + wait_s)

    async def run(self, request: Text, envelope: Envelope, origin: Origin, asker: str) -> Text:
        """Returns the answer to `asker` (see SyncCall); a file of it must be removed by the caller. Raises nothing
        unless the task is cancelled."""
        node = self._context.node_name
        began = self._context.clock.monotonic()
        row = find(envelope.function)
        try:
            if row is None:
                return _inline(not_available(envelope.function, node))
            own = self._context.settings.clusterd
            refusal = row.refusal(envelope.request_type, origin, own.worker_api)
            if not refusal and own.missing_permissions == "deny" and not envelope.has_permissions:
                refusal = f"this node's clusterd.missing_permissions is deny, and {row.shown} is asked without any"
            if refusal:
                return _inline(refused(refusal, self._shown(node, request)))
            answer = await self._run(request, AdmittedRequest(envelope, row, asker))
            taken = self._context.clock.monotonic() - began
            self._log.debug(f"Time calculating request ({row.shown}) result: {taken:.3f}s")
            return answer
        except ClusterError as failure:
            return _inline(as_answer(failure, self._shown(node, request)))
        except (JobError, OSError) as failure:
            self._log.error(f"Error in distributed API: {failure}")
            if isinstance(failure, JobError) and failure.kind == LATE:
                late = WireException(TOOK_TOO_LONG, None, wire_class=INTERNAL_ERROR)
                return _inline(as_answer(late, self._shown(node, request)))
            return _inline(unexpected(self._shown(node, request)))

    async def _run(self, request: Text, asked: AdmittedRequest) -> Text:
        settings, envelope = self._context.settings, asked.envelope
        place = place_of(
            envelope.request_type,
            from_cluster=envelope.from_cluster,
            is_master=settings.is_master,
            is_enabled=settings.dapi_enabled,
        )
        if place == "refuse":
            raise WireException(1000, f"{envelope.request_type} requests run on the master")
        if place == "forward":
            return await self._spread(request, asked)
        return await self._execute(request, asked)

    async def _execute(self, request: Text, asked: AdmittedRequest) -> Text:
        settings = self._context.settings
        longest_s = LONGEST_CHANGE_S if asked.row.changes else settings.communication.timeout_dapi_request_s
        longest_s = max(longest_s, settings.clusterd.request_timeout_s)
        timeout_s = longest_s if asked.envelope.wait_for_complete else min(self._timeout_s(asked.envelope), longest_s)
        if asked.row.is_login:
            timeout_s = max(timeout_s, LOGIN_TIMEOUT_S)
        return await self._here.execute(request, asked, timeout_s)

    def _timeout_s(self, envelope: Envelope) -> float:
        return function_s(self._context.settings, envelope.api_timeout_s)

    def limit_s(self, envelope: Envelope) -> float | None:
        """Returns the time in which a worker's answer must begin to arrive."""
        complete = envelope.wait_for_complete
        return node_answers_s(self._context.settings, envelope.api_timeout_s, wait_for_complete=complete)

    async def know_files_first(self, envelope: Envelope) -> None:
        """Called before other nodes are asked. A worker that is to reload its rules does so after its next check: what
        was uploaded a moment ago must be known here by then, or the check finds nothing and the old rules are
        loaded."""
        if (envelope.function.module, envelope.function.qualname) == _RELOAD:
            with contextlib.suppress(ScanFailed, TimeoutError):
                async with asyncio.timeout(self._timeout_s(envelope)):
                    await self._context.manifests.scan(fresh=True)

    # ---- on many nodes -----------------------------------------------------------------------------------------------

    async def _spread(self, request: Text, asked: AdmittedRequest) -> Text:
        """Asks every solver at the same time and merges the answers in the order of the plan. Requests to other nodes
        are sent even if this node cannot execute its own."""
        context = self._context
        timeout_s = self._timeout_s(asked.envelope)
        out = context.spool.new_path("plan")
        job = PlanRequest(context.settings.root, request, self._connected(), timeout_s, out)
        held: list[Text] = []
        try:
            planned = await context.jobs.run(job, lane="api", begin_by=asked.envelope.begin_by)
            if planned.failure:
                return Text(planned.failure)
            await self.know_files_first(asked.envelope)
            check_due(context, asked.envelope)

            async def solve(node: str, part: Text) -> Text:
                answer = await self._solve(node, part, asked, is_one_of_many=planned.merges)
                held.append(answer)
                return answer

            answers = await asyncio.gather(*(solve(part.node, part.request) for part in planned.requests))
            if not planned.merges:
                held.clear()
                return answers[0]
            merged = context.spool.new_path("answer")
            combine = CombineAnswers(request, planned.allowed, answers, merged)
            try:
                return (await context.jobs.run(combine, lane="api")).answer
            except BaseException:
                context.spool.remove(merged)
                raise
        finally:
            context.spool.remove(out)
            self._texts.remove(*held)

    async def _solve(self, node: str, request: Text, asked: AdmittedRequest, *, is_one_of_many: bool) -> Text:
        """Returns one node's answer; if there is none, a failure of that node (dapi.md 3.5)."""
        try:
            if node == self._context.node_name:
                return await self._execute(request, asked)
            return await self._ask(node, request, self.limit_s(asked.envelope))
        except ClusterError as failure:
            permissions = self._permissions(request)
            if failure.code == NOT_CONNECTED:
                self._log.error(
                    f"Error in DAPI request. The destination node is not connected or does not exist: {node}."
                )
                return _inline(not_connected(node, permissions))
            if is_one_of_many and node != self._context.node_name:
                # Otherwise the asker would get only this node's failure.
                self._log.error(f"Error in DAPI request. {node} gave no answer: {failure}")
                return _inline(not_answered(node, permissions, failure))
            return _inline(as_answer(failure, shown_node(permissions, node)))
        except (JobError, OSError) as failure:
            self._log.error(f"Error in distributed API: {failure}")
            return _inline(unexpected(self._shown(node, request)))

    def _shown(self, node: str, request: Text) -> str:
        return shown_node(self._permissions(request), node)

    def _permissions(self, request: Text) -> Mapping[str, Any]:
        """Returns the request's permissions; none if it cannot be read."""
        try:
            return read_permissions(self._texts.read(request, LARGEST_PART))
        except (ClusterError, OSError):
            return {}


def _inline(answer: WireException) -> Text:
    return Text(dump_json(answer))
