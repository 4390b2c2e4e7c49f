"""Executes an API request on this node (dapi.md 3.7): by a function of ours, in sync or in the pool, or by the
framework that is installed here. The table (clusterd/dapi/protocol/policy.py) says which is tried, in which order."""

import asyncio
from typing import Any, NamedTuple

import msgspec

from clusterd.dapi.execution import as_value, check_daemons, unexpected, with_denied, without_star
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.access import Scope, check
from clusterd.dapi.protocol.envelope import Envelope
from clusterd.dapi.protocol.policy import Row
from clusterd.dapi.protocol.registry import (
    ArgumentsRefused,
    Cluster,
    RegisteredFunction,
    SyncCall,
    arguments_of,
    not_available,
)
from clusterd.dapi.protocol.request import LARGEST_REQUEST, parse_request
from clusterd.dapi.protocol.unopened import check_unopened
from clusterd.errors import ClusterError
from clusterd.messages.api import RunFunction
from clusterd.messages.base import Text
from clusterd.messages.replica import Mark, Marked
from clusterd.sync.links.context import Context
from clusterd.sync.ports.framework_port import NotBegun
from clusterd.sync.ports.pool_port import DIED, LATE, JobError
from clusterd.sync.requests.blobs import JsonBlobs
from clusterd.sync.requests.passwords import FrameworkLogins
from clusterd.wdb.replica import ReplicaStore
from clusterd.wire.results import INTERNAL_ERROR, WireException, dump_json

READ_ASIDE_BYTES = 1 << 16
"""A longer request for a function of this process is read in a thread: the digests of 20,000 files have 3 MiB."""
TOOK_TOO_LONG = 3021
UNCONFIRMED = "it is done on this node, but no candidate has confirmed it, ask again"
LONGEST_SET_S = 15.0
"""How long the store may wait for etcd, beside its waiting for a candidate."""
MAY_BE_DONE = "the process that ran it died: it may have been done, or in part"
_EXCEPTION = b'{"__wazuh_exception__"'


class AdmittedRequest(NamedTuple):
    """A request that may be executed here: its envelope, its row of the table, and its asker (see SyncCall)."""

    envelope: Envelope
    row: Row
    asker: str


class ThisNode:
    """Executes requests here."""

    def __init__(self, context: Context, cluster: Cluster, texts: JsonBlobs) -> None:
        self._context = context
        self._log = context.tag_log(context.tag, "D API")
        self._cluster = cluster
        self._texts = texts
        self._logins = FrameworkLogins(context)

    async def execute(self, request: Text, asked: AdmittedRequest, timeout_s: float | None) -> Text:
        """Returns the answer. `timeout_s`: how long the function may take, None without a limit. A change that could
        not begin before its asker has gone is not made.

        Raises ClusterError, JobError, OSError."""
        gate = self._context.changes
        if gate is None or not asked.row.changes_master:
            return await self._execute(request, asked, timeout_s)
        async with gate.change(asked.row.shown):
            return await self._execute(request, asked, timeout_s)

    async def _execute(self, request: Text, asked: AdmittedRequest, timeout_s: float | None) -> Text:
        self._context.check_lead()
        check_due(self._context, asked.envelope)
        self._log.debug("Starting to execute request locally")
        try:
            answer = await self._by_whoever_can(request, asked, timeout_s)
            return await self._once_kept(answer) if asked.row.changes_groups else answer
        except TimeoutError:
            raise WireException(TOOK_TOO_LONG, None, wire_class=INTERNAL_ERROR) from None
        finally:
            self._log.debug("Finished executing request locally")

    async def _by_whoever_can(self, request: Text, asked: AdmittedRequest, timeout_s: float | None) -> Text:
        name, row = asked.envelope.function, asked.row
        function = FUNCTIONS.find(name)
        framework = self._context.framework
        answerers = row.answerers(
            has_ours=function is not None,
            can_run=framework is not None and row.who != "ours" and framework.can_run(name),
            state="absent" if framework is None else framework.state,
        )
        why = ""
        while answerers:
            answerer = answerers.pop(0)
            try:
                if answerer == "framework":
                    answer = await self._in_framework(request, asked, timeout_s)
                    both = row.who == "framework+ours" and function is not None
                    return await self._besides(request, answer) if both else answer
                assert function is not None
                async with asyncio.timeout(timeout_s):
                    return await self._by_ours(request, function, asked, may_decline=bool(answerers))
            except ArgumentsRefused as refusal:
                if not answerers:
                    raise
                why = str(refusal)
            except NotBegun as refusal:
                why = str(refusal.extra)
        raise not_available(name, self._context.node_name, why)

    async def _once_kept(self, answer: Text) -> Text:
        """On a master with candidates: returns the answer when it may be given, as a registration is answered
        (docs/ha.md, Synchronous). Raises ClusterError 1000 if it may not."""
        settings = self._context.settings
        if not (settings.is_master and settings.has_replica) or _is_failure(answer):
            return answer
        limit_s = LONGEST_SET_S + 2 * settings.clusterd.ha.synchronous_timeout_s
        try:
            marked = msgspec.msgpack.decode(await ReplicaStore(settings.root).ask(Mark(), limit_s), type=Marked)
            why = marked.why if marked.is_refused else ""
        except ClusterError as failure:
            why = str(failure.extra or failure)
        except BaseException:
            self._texts.remove(answer)
            raise
        if not why:
            return answer
        self._texts.remove(answer)
        raise WireException(1000, f"{UNCONFIRMED}: {why}")

    # ---- the framework -----------------------------------------------------------------------------------------------

    async def _in_framework(self, request: Text, asked: AdmittedRequest, timeout_s: float | None) -> Text:
        """It is answered without a process of the pool."""
        framework, row = self._context.framework, asked.row
        assert framework is not None
        content = self._texts.read(request, LARGEST_REQUEST)
        check_unopened(content)

        async def run() -> Text:
            return await framework.run(
                request,
                timeout_s=timeout_s,
                is_read_only=not row.changes,
                begin_by=asked.envelope.begin_by,
                name=asked.envelope.function,
                asker=asked.asker,
            )

        try:
            return await (self._logins.limited(asked.asker, content, run) if row.is_login else run())
        except ClusterError as failure:
            if failure.code == TOOK_TOO_LONG:
                raise TimeoutError from None
            raise

    async def _besides(self, request: Text, answer: Text) -> Text:
        """Repeats for our own state what the framework has just done for its own. Returns the framework's answer,
        unless ours failed."""
        if _is_failure(answer):
            return answer
        own = await self._in_pool(request, changes=True, may_decline=False, begin_by=None)
        if _is_failure(own):
            answer, own = own, answer
        self._texts.remove(own)
        return answer

    # ---- ours --------------------------------------------------------------------------------------------------------

    async def _by_ours(
        self, request: Text, function: RegisteredFunction, asked: AdmittedRequest, *, may_decline: bool
    ) -> Text:
        """Raises ArgumentsRefused, if `may_decline`, for arguments that our function does not support."""
        if function.place == "sync":
            return await self._in_sync(request, function, asked.asker)
        return await self._in_pool(
            request, changes=asked.row.changes, may_decline=may_decline, begin_by=asked.envelope.begin_by
        )

    async def _in_pool(self, request: Text, *, changes: bool, may_decline: bool, begin_by: float | None) -> Text:
        """Raises ClusterError 1000 when the process has died and the function may not run again, TimeoutError when it
        has not begun by `begin_by`, and will not."""
        context = self._context
        out = context.spool.new_path("answer")
        settings = context.settings
        job = RunFunction(settings.root, request, out, settings.serves_store, may_decline, changes)
        try:
            done = await context.jobs.run(job, lane="api", begin_by=begin_by)
        except JobError as failure:
            context.spool.remove(out)
            if failure.kind == LATE:
                raise TimeoutError from None
            if changes and failure.kind == DIED:
                raise WireException(1000, MAY_BE_DONE) from None
            raise
        except BaseException:
            context.spool.remove(out)
            raise
        if done.declined:
            raise ArgumentsRefused(1000, done.declined)
        return done.answer

    async def _in_sync(self, text: Text, function: RegisteredFunction, asker: str) -> Text:
        settings, node = self._context.settings, self._context.node_name
        content = self._texts.read(text, LARGEST_REQUEST)
        is_long = len(content) > READ_ASIDE_BYTES
        request = without_star(await asyncio.to_thread(parse_request, content) if is_long else parse_request(content))
        if function.checks_daemons:
            check_daemons(request, settings, serves_store=settings.serves_store)
        access = check(function, request, Scope(settings.root, node))
        arguments = arguments_of(function, access.request.f_kwargs)
        try:
            returned: Any = await function.work(SyncCall(settings, access.request, self._cluster, asker), arguments)
        except ClusterError:
            raise
        except Exception as bug:
            self._log.error(f"Error executing API request locally: {type(bug).__name__}: {bug}")
            return Text(dump_json(unexpected(node)))
        return self._texts.write(dump_json(with_denied(as_value(returned), access)))


def check_due(context: Context, envelope: Envelope) -> None:
    """Raises ClusterError 3021 for a change that nobody waits for any more."""
    if envelope.begin_by is not None and context.clock.monotonic() >= envelope.begin_by:
        raise WireException(TOOK_TOO_LONG, None, wire_class=INTERNAL_ERROR)


def _is_failure(answer: Text) -> bool:
    return answer.payload.startswith(_EXCEPTION)
