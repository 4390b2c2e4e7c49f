"""An API request that this node executes or, on a master, spreads over the nodes (dapi.md 3.5 to 3.7). Whatever happens, the
outcome is an encoded answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from clusterd.dapi.execution import (
    as_answer,
    as_value,
    check_daemons,
    refused,
    unexpected,
    with_denied,
    without_star,
)
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.access import Scope, check
from clusterd.dapi.protocol.envelope import Envelope
from clusterd.dapi.protocol.registry import Cluster, Function, Origin, SyncCall, arguments_of, not_available
from clusterd.dapi.protocol.request import parse_request
from clusterd.dapi.protocol.routing import not_answered, not_connected, place_of
from clusterd.errors import ClusterError
from clusterd.messages.api import CombineAnswers, PlanRequest, RunFunction
from clusterd.messages.base import Text
from clusterd.sync.links.context import Context
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.requests.blobs import JsonBlobs
from clusterd.wire.results import INTERNAL_ERROR, WireException, dump_json

Ask = Callable[[str, Text, float | None], Awaitable[Text]]
"""Give a request to a connected node and wait for its answer, which must begin to come within so many seconds (None: it may take
its time, but the node must be there). Raises ClusterError 3022 for one that is not connected."""
LARGEST_SYNC_REQUEST = 1 << 20
NOT_CONNECTED = 3022


class ApiRunner:
    """Executes requests. `connected`: the master's own name and its workers, on a master."""

    def __init__(
        self, context: Context, cluster: Cluster, connected: Callable[[], list[str]], ask: Ask, texts: JsonBlobs
    ) -> None:
        self._context = context
        self._journal = context.journal(context.tag, "D API")
        self._cluster = cluster
        self._connected = connected
        self._ask = ask
        self._texts = texts

    async def run(self, request: Text, envelope: Envelope, origin: Origin, asker: str) -> Text:
        """The answer to `asker` (see SyncCall); a file of it is the caller's to remove. Raises nothing but for a cancelled task."""
        node = self._context.node_name
        began = self._context.clock.monotonic()
        function = FUNCTIONS.find(envelope.function)
        try:
            if function is None:
                return _inline(not_available(envelope.function, node))
            if origin not in function.origins or envelope.request_type not in function.types:
                text = f"{function.shown} cannot be asked as {envelope.request_type} by a {origin}"
                return _inline(refused(text, node))
            worker_api = self._context.settings.clusterd.worker_api
            if origin == "worker" and (worker_api == "off" or (worker_api == "read" and function.is_sensitive)):
                text = f"this master's clusterd.worker_api is {worker_api}: ask the master for {function.shown}"
                return _inline(refused(text, node))
            answer = await self._run(request, envelope, function, asker)
            taken = self._context.clock.monotonic() - began
            self._journal.debug(f"Time calculating request ({function.shown}) result: {taken:.3f}s")
            return answer
        except ClusterError as failure:
            return _inline(as_answer(failure, node))
        except (JobError, OSError) as failure:
            self._journal.error(f"Error in distributed API: {failure}")
            return _inline(unexpected(node))

    async def _run(self, request: Text, envelope: Envelope, function: Function, asker: str) -> Text:
        settings = self._context.settings
        place = place_of(
            envelope.request_type,
            from_cluster=envelope.from_cluster,
            is_master=settings.is_master,
            is_enabled=settings.dapi_enabled,
        )
        if place == "refuse":
            raise WireException(1000, f"{envelope.request_type} requests run on the master", wire_class=INTERNAL_ERROR)
        if place == "forward":
            return await self._spread(request, envelope)
        return await self._here(request, envelope, function, asker)

    def _timeout_s(self, envelope: Envelope) -> float:
        return max(envelope.api_timeout_s, self._context.settings.clusterd.request_timeout_s)

    def limit_s(self, envelope: Envelope) -> float | None:
        """In which a worker's answer must begin to come: what its function may take, and as long as any response."""
        grace_s = self._context.settings.communication.timeout_cluster_request_s
        return None if envelope.wait_for_complete else self._timeout_s(envelope) + grace_s

    # ---- on this node ------------------------------------------------------------------------------------------------------

    async def _here(self, request: Text, envelope: Envelope, function: Function, asker: str) -> Text:
        timeout_s = None if envelope.wait_for_complete else self._timeout_s(envelope)
        self._journal.debug("Starting to execute request locally")
        try:
            async with asyncio.timeout(timeout_s):
                if function.place == "sync":
                    return await self._in_sync(request, function, asker)
                return await self._in_pool(request)
        except TimeoutError:
            raise WireException(3021, None, wire_class=INTERNAL_ERROR) from None
        finally:
            self._journal.debug("Finished executing request locally")

    async def _in_pool(self, request: Text) -> Text:
        context = self._context
        out = context.spool.new_path("answer")
        settings = context.settings
        job = RunFunction(settings.root, request, out, settings.serves_store)
        try:
            return (await context.jobs.run(job, lane="api")).answer
        except BaseException:
            context.spool.remove(out)
            raise

    async def _in_sync(self, text: Text, function: Function, asker: str) -> Text:
        settings, node = self._context.settings, self._context.node_name
        request = without_star(parse_request(self._texts.read(text, LARGEST_SYNC_REQUEST), limit=LARGEST_SYNC_REQUEST))
        if function.checks_daemons:
            check_daemons(request, settings, serves_store=settings.serves_store)
        access = check(function, request, Scope(settings.root, node))
        arguments = arguments_of(function, access.request.f_kwargs)
        try:
            returned: Any = await function.work(SyncCall(settings, access.request, self._cluster, asker), arguments)
        except ClusterError:
            raise
        except Exception as bug:
            self._journal.error(f"Error executing API request locally: {type(bug).__name__}: {bug}")
            return _inline(unexpected(node))
        return self._texts.write(dump_json(with_denied(as_value(returned), access)))

    # ---- on many nodes -----------------------------------------------------------------------------------------------------

    async def _spread(self, request: Text, envelope: Envelope) -> Text:
        """Every solver is asked at the same time; answers are merged in the order of the plan."""
        context = self._context
        timeout_s = self._timeout_s(envelope)
        out = context.spool.new_path("plan")
        job = PlanRequest(context.settings.root, request, self._connected(), timeout_s, out)
        held: list[Text] = []
        try:
            planned = await context.jobs.run(job, lane="api")
            if planned.failure:
                return Text(planned.failure)

            async def solve(node: str, part: Text) -> Text:
                answer = await self._solve(node, part, envelope, is_one_of_many=planned.merges)
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

    async def _solve(self, node: str, request: Text, envelope: Envelope, *, is_one_of_many: bool) -> Text:
        """One node's answer; a node that does not give one contributes a failure of its own (dapi.md 3.5)."""
        function = FUNCTIONS.find(envelope.function)
        assert function is not None
        try:
            if node == self._context.node_name:
                return await self._here(request, envelope, function, "")
            return await self._ask(node, request, self.limit_s(envelope))
        except ClusterError as failure:
            if failure.code == NOT_CONNECTED:
                parsed = parse_request(self._texts.read(request, LARGEST_SYNC_REQUEST))
                self._journal.error(
                    f"Error in DAPI request. The destination node is not connected or does not exist: {node}."
                )
                return _inline(not_connected(node, parsed))
            if is_one_of_many and node != self._context.node_name:
                # Else this one's failure would be all that the asker gets.
                self._journal.error(f"Error in DAPI request. {node} gave no answer: {failure}")
                parsed = parse_request(self._texts.read(request, LARGEST_SYNC_REQUEST))
                return _inline(not_answered(node, parsed, failure))
            return _inline(as_answer(failure, node))
        except (JobError, OSError) as failure:
            self._journal.error(f"Error in distributed API: {failure}")
            return _inline(unexpected(node))


def _inline(answer: WireException) -> Text:
    return Text(dump_json(answer))
