"""An etcd client over etcd's JSON gateway (/v3/...), for what an election needs: leases, reads, transactions, watches.

Members are tried in turn, beginning with the one that answered last. After a fault of one member (closed port, silence,
no leader, bad TLS, nonsense) the next one is tried; a refusal by etcd itself (login, permission) is final. No call
takes longer than `timeout_s`: each member gets half of the rest, the last one all of it.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from clusterd.config.ha import read_password
from clusterd.election.gateway import (
    AnswerType,
    Compacted,
    Compare,
    Delete,
    EndpointStatus,
    EtcdAnswer,
    EtcdHeader,
    EtcdRefused,
    EtcdUnavailable,
    Item,
    KeyChange,
    LeaseAnswer,
    LeaseLost,
    MemberFailed,
    Put,
    RangeAnswer,
    Snapshot,
    StatusAnswer,
    TokenAnswer,
    TokenInvalid,
    TxnAnswer,
    TxnResult,
    WatchAnswer,
    encode_txn,
    encoded,
    key_range,
    parse,
    parse_failure,
    parse_streamed,
    refusal,
)
from clusterd.election.member_failures import member_failed, unavailable
from clusterd.http_client import httpx
from clusterd.settings import EtcdSettings

__all__ = [
    "Compacted",
    "Compare",
    "Delete",
    "EndpointStatus",
    "Etcd",
    "EtcdRefused",
    "EtcdUnavailable",
    "Item",
    "KeyChange",
    "LeaseLost",
    "Put",
    "Snapshot",
    "TxnResult",
]

LARGEST_ANSWER = 8 * 1024 * 1024
IDLE_S = 120.0
"""How long an idle connection is kept: longer than the pause between two renewals, so that these need no handshake."""
WATCH_S = 30.0
"""After this silence a watch is opened anew: a half-open link is silent, too."""
HEADERS = {"Grpc-Metadata-hasleader": "true", "Accept-Encoding": "identity", "Content-Type": "application/json"}
"""hasleader: a member without a leader refuses at once instead of letting us wait, and ends its watches."""
END_S = 0.5
OK = 200
NO_LOGIN = "authentication is not enabled"
Result = TypeVar("Result")


class Etcd:
    """The client of one process. Values and keys are no secrets; no error contains a password or token.

    `witness`: a key that this user may read, for example the leader's. With it a renewal counts only if a majority has
    confirmed afterwards that the renewing member still leads etcd. An etcd leader that was cut off (etcd before 3.5.8)
    goes on renewing leases for a moment, in which the other members already let them expire."""

    def __init__(
        self, settings: EtcdSettings, *, timeout_s: float, witness: str = "", watch_s: float = WATCH_S
    ) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._witness = witness
        self._watch_s = watch_s
        self._first = 0
        self._token: str | None = None
        """None: not logged in; empty: etcd wants no login."""
        self._cluster_id = ""
        self._http: httpx.AsyncClient | None = None

    # ---- calls -------------------------------------------------------------------------------------------------------

    async def grant(self, ttl_s: int) -> int:
        """Takes a lease of this many seconds; returns its id."""

        async def at(member: str) -> LeaseAnswer:
            return await self._ask(member, "lease/grant", {"TTL": str(ttl_s)}, LeaseAnswer)

        return (await self._somewhere(at)).ID

    async def keep_alive(self, lease: int) -> int:
        """Renews a lease. Returns the seconds that it has left, counted from no earlier than the call. Raises LeaseLost
        when etcd does not know it."""

        async def at(member: str) -> LeaseAnswer:
            found = await self._ask_stream(member, "lease/keepalive", {"ID": str(lease)}, LeaseAnswer)
            if found.TTL > 0 and self._witness:
                seen = await self._ask(member, "kv/range", _witness_of(self._witness), EtcdAnswer)
                if seen.header.raft_term != found.header.raft_term:
                    raise MemberFailed("has got another leader meanwhile")
            return found

        found = await self._somewhere(at)
        if found.TTL <= 0:
            raise LeaseLost("etcd does not know this lease any more")
        return found.TTL

    async def revoke(self, lease: int) -> None:
        """Ends a lease and deletes its keys. A lease that has ended already is no error."""

        async def at(member: str) -> EtcdAnswer:
            return await self._ask(member, "lease/revoke", {"ID": str(lease)}, EtcdAnswer)

        with contextlib.suppress(LeaseLost):
            await self._somewhere(at)

    async def read(self, prefix: str) -> Snapshot:
        """Returns all keys that begin with the prefix, as a majority of the members has them."""

        async def at(member: str) -> RangeAnswer:
            return await self._ask(member, "kv/range", key_range(prefix), RangeAnswer)

        found = await self._somewhere(at)
        return Snapshot(found.header.revision, {one.name: one.item for one in found.kvs})

    async def txn(self, when: list[Compare], then: list[Put | Delete]) -> TxnResult:
        """Does all of `then` if all of `when` holds. It is never sent twice: after EtcdUnavailable it may have been
        done or not (read then). Raises LeaseLost when a key's lease has ended."""

        async def at(member: str) -> TxnAnswer:
            return await self._ask(member, "kv/txn", encode_txn(when, then), TxnAnswer)

        found = await self._somewhere(at, is_repeatable=False)
        return TxnResult(found.succeeded, found.header.revision)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[list[KeyChange]]:
        """Yields the changes below the prefix after a revision, in order, without end; the changes of one revision stay
        together. Raises Compacted when etcd has dropped that history, EtcdUnavailable when no member serves it. A
        member that was cut off reports changes late: silence proves nothing."""
        failures: dict[str, MemberFailed] = {}
        while len(failures) < len(self._settings.endpoints):
            member = next(one for one in self._in_turn() if one not in failures)
            is_new = False
            try:
                async with asyncio.timeout(self._timeout_s):
                    is_new = await self._ensure_login(member)
                async with contextlib.aclosing(self._watch_at(member, prefix, after + 1)) as found:
                    async for changes in found:
                        failures.clear()
                        if changes:
                            after = changes[-1].revision
                            yield changes
            except TokenInvalid as failure:
                self._token = None
                if is_new:
                    failures[member] = MemberFailed(f"takes no login: {failure}")
            except TimeoutError:
                failures[member] = MemberFailed(f"does not answer within {self._timeout_s:g} s")
            except MemberFailed as failure:
                failures[member] = failure
        raise unavailable(failures)

    async def status(self) -> list[EndpointStatus]:
        """Asks all members at the same time for their state."""

        async def one(member: str) -> EndpointStatus:
            try:
                async with asyncio.timeout(self._timeout_s):
                    found = await self._unary(member, "maintenance/status", {}, StatusAnswer)
            except TimeoutError:
                return EndpointStatus(member, f"does not answer within {self._timeout_s:g} s")
            except (MemberFailed, EtcdRefused, TokenInvalid) as failure:
                return EndpointStatus(member, str(failure))
            return EndpointStatus(
                member,
                "" if found.leader != "0" else "has no leader: a majority of the members is needed",
                found.version,
                found.header.cluster_id,
                found.leader == found.header.member_id,
                found.header.raft_term,
                tuple(found.errors),
            )

        return list(await asyncio.gather(*(one(member) for member in self._settings.endpoints)))

    async def close(self) -> None:
        """Closes all connections. A later call opens new ones."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    # ---- members -----------------------------------------------------------------------------------------------------

    def _in_turn(self) -> list[str]:
        members = self._settings.endpoints
        return [*members[self._first :], *members[: self._first]]

    async def _somewhere(self, at: Callable[[str], Awaitable[Result]], *, is_repeatable: bool = True) -> Result:
        """Returns the answer of the first member that gives one. `is_repeatable`: the request may be made again though
        it may have been done."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        failures: dict[str, MemberFailed] = {}
        members = self._in_turn()
        for place, member in enumerate(members, 1):
            left = deadline - asyncio.get_running_loop().time()
            share = left if place == len(members) else left / 2
            try:
                async with asyncio.timeout(share):
                    found = await at(member)
            except TimeoutError:
                failures[member] = MemberFailed(f"does not answer within {share:.2g} s", may_be_done=True)
            except MemberFailed as failure:
                failures[member] = failure
            else:
                self._first = self._settings.endpoints.index(member)
                return found
            if failures[member].may_be_done and not is_repeatable:
                self._first = (self._settings.endpoints.index(member) + 1) % len(members)
                break
        if any(one.is_tls for one in failures.values()):
            await self.close()  # perhaps its files are replaced: the next call reads them again
        if all(one.is_other for one in failures.values()):
            self._cluster_id = ""  # etcd was made anew
        raise unavailable(failures)

    def _check_cluster(self, header: EtcdHeader) -> None:
        """A member of another etcd knows neither our lease nor our keys."""
        if self._cluster_id not in ("", header.cluster_id):
            raise MemberFailed("belongs to another etcd than before", may_be_done=True, is_other=True)
        self._cluster_id = header.cluster_id

    async def _logged_in(self, member: str, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Sends a request, with a login where etcd wants one. Logs in again, once, when etcd has forgotten the
        login."""
        await self._ensure_login(member)
        with contextlib.suppress(TokenInvalid):
            return await ask()
        self._token = None
        await self._ensure_login(member)
        try:
            return await ask()
        except TokenInvalid as failure:
            raise MemberFailed(f"takes no login: {failure}") from None

    async def _ensure_login(self, member: str) -> bool:
        """Returns whether it logged in just now."""
        if self._token is not None or not self._settings.user:
            return False
        await self._log_in(member)
        return True

    async def _log_in(self, member: str) -> None:
        user = self._settings.user
        try:
            password = read_password(self._settings.password_file)
        except OSError as failure:
            raise EtcdRefused(
                f"the password file {self._settings.password_file} cannot be read: {failure.strerror}"
            ) from None
        except ValueError as failure:
            raise EtcdRefused(str(failure)) from None
        try:
            found = await self._unary(member, "auth/authenticate", {"name": user, "password": password}, TokenAnswer)
        except EtcdRefused as failure:
            if NO_LOGIN not in str(failure):
                raise
            self._token = ""
        else:
            self._token = found.token

    async def _ask(self, member: str, path: str, body: dict[str, Any], kind: type[AnswerType]) -> AnswerType:
        found = await self._logged_in(member, lambda: self._unary(member, path, body, kind))
        self._check_cluster(found.header)
        return found

    async def _ask_stream(self, member: str, path: str, body: dict[str, Any], kind: type[AnswerType]) -> AnswerType:
        """Opens a stream and returns its first message."""

        async def ask() -> AnswerType:
            async with contextlib.aclosing(self._lines(member, path, body)) as lines:
                line = await anext(lines, None)
                if line is None:
                    raise MemberFailed("ends its answer before it says anything", may_be_done=True)
                found = parse_streamed(line, kind, self._settings.user)
                with contextlib.suppress(TimeoutError):  # a connection whose answer was read to its end is kept
                    async with asyncio.timeout(END_S):
                        await anext(lines, None)
            return found

        found = await self._logged_in(member, ask)
        self._check_cluster(found.header)
        return found

    async def _unary(self, member: str, path: str, body: dict[str, Any], kind: type[AnswerType]) -> AnswerType:
        async with contextlib.aclosing(self._chunks(member, path, body)) as chunks:
            data = b""
            async for chunk in chunks:
                data += chunk
                _bound(data)
        return parse(data, kind)

    async def _watch_at(self, member: str, prefix: str, start: int) -> AsyncGenerator[list[KeyChange]]:
        """Yields a member's watch until it has been silent for a while; first an empty list, when it is open."""
        body = {"create_request": key_range(prefix) | {"start_revision": str(start)}}
        patience = self._timeout_s
        async with contextlib.aclosing(self._lines(member, "watch", body)) as lines:
            while True:
                try:
                    async with asyncio.timeout(patience):
                        line = await anext(lines, None)
                except TimeoutError:
                    if patience == self._watch_s:
                        return
                    raise MemberFailed(f"does not answer within {patience:g} s") from None
                if line is None:
                    raise MemberFailed("has ended the watch")
                found = parse_streamed(line, WatchAnswer, self._settings.user)
                self._check_cluster(found.header)
                if found.compact_revision:
                    raise Compacted(f"what changed before revision {found.compact_revision} is not known any more")
                if found.canceled:
                    raise refusal(found.cancel_reason, 0, self._settings.user)
                patience = self._watch_s
                yield found.changes

    # ---- HTTP --------------------------------------------------------------------------------------------------------

    async def _lines(self, member: str, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes]:
        data = b""
        async with contextlib.aclosing(self._chunks(member, path, body)) as chunks:
            async for chunk in chunks:
                *whole, data = (data + chunk).split(b"\n")
                _bound(data)
                for line in whole:
                    if line.strip():
                        yield line
        if data.strip():
            yield data

    async def _chunks(self, member: str, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes]:
        headers = HEADERS | ({"Authorization": self._token} if self._token else {})
        content = msgspec.json.encode(body)
        try:
            async with self._client().stream("POST", f"{member}/v3/{path}", content=content, headers=headers) as answer:
                if answer.status_code != OK:
                    data = b""
                    async for chunk in answer.aiter_raw():
                        data += chunk
                        _bound(data)
                    raise parse_failure(answer.status_code, data, self._settings.user)
                async for chunk in answer.aiter_raw():
                    yield chunk
        except httpx.HTTPError as failure:
            raise member_failed(failure) from None

    def _client(self) -> httpx.AsyncClient:
        """Returns one HTTP client for all members, which keeps their connections. It ignores proxies of the
        environment."""
        if self._http is None:
            limits = httpx.Limits(keepalive_expiry=IDLE_S)
            self._http = httpx.AsyncClient(
                verify=_tls_context(self._settings), trust_env=False, timeout=None, limits=limits
            )
        return self._http


def _witness_of(key: str) -> dict[str, Any]:
    return {"key": encoded(key), "count_only": True}


def _bound(data: bytes) -> None:
    if len(data) > LARGEST_ANSWER:
        raise MemberFailed(f"answers with more than {LARGEST_ANSWER} bytes", may_be_done=True)


def _tls_context(settings: EtcdSettings) -> ssl.SSLContext:
    if not any(one.startswith("https:") for one in settings.endpoints):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.cert:
            context.load_cert_chain(settings.cert, settings.key, password=lambda: "")
    except OSError as failure:
        text = getattr(failure, "reason", "") or failure.strerror
        raise EtcdRefused(f"certificates for etcd cannot be used (clusterd.ha.etcd.ca, cert, key): {text}") from None
    return context
