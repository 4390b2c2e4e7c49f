"""The client of etcd, with real members and with faulty ones."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from clusterd.election.etcd import (
    Compacted,
    Compare,
    Delete,
    Etcd,
    EtcdUnavailable,
    KeyChange,
    LeaseLost,
    Put,
)
from clusterd.settings import EtcdSettings
from tests.election.etcd_talks import LONG_S, post, talk, until
from tests.election.scripted_member import HEADER, Serve, answering, endless, listening, resets, saying, silent, way_to
from tools.rig.etcd import EtcdCluster
from tools.rig.etcd import etcd_cluster as running
from tools.rig.guard import guarded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lone() -> Iterator[EtcdCluster]:
    """One member, shared by tests that do it no harm; each uses keys of its own."""
    with guarded("etcd-") as directory, running(directory, 1) as cluster:
        yield cluster


@pytest.fixture
def base() -> Iterator[Path]:
    with guarded("etcd-") as directory:
        yield directory


# ---- what it does ----------------------------------------------------------------------------------------------------


def test_lease_is_renewed_until_it_is_revoked_and_takes_its_keys_with_it(lone: EtcdCluster) -> None:
    async def what(etcd: Etcd) -> None:
        lease = await etcd.grant(60)
        await etcd.txn([], [Put("/lease/a", b"1", lease), Put("/lease/b", b"2")])
        assert 50 < await etcd.keep_alive(lease) <= 60
        assert (await etcd.read("/lease/")).items["/lease/a"].lease == lease
        await etcd.revoke(lease)
        assert set((await etcd.read("/lease/")).items) == {"/lease/b"}
        with pytest.raises(LeaseLost):
            await etcd.keep_alive(lease)
        with pytest.raises(LeaseLost):
            await etcd.txn([], [Put("/lease/a", b"1", lease)])
        await etcd.revoke(lease)

    talk(lone.endpoints, what, witness="/lease/a")


def test_transaction_does_all_or_nothing_and_its_revision_is_that_of_the_key(lone: EtcdCluster) -> None:
    async def what(etcd: Etcd) -> None:
        free = Compare("/txn/leader", "create_revision", 0)
        taken = await etcd.txn([free], [Put("/txn/leader", b"a"), Put("/txn/other", b"x")])
        item = (await etcd.read("/txn/")).items["/txn/leader"]
        assert taken.succeeded
        assert (item.value, item.create_revision, item.mod_revision) == (b"a", taken.revision, taken.revision)
        again = await etcd.txn([free], [Put("/txn/leader", b"b"), Delete("/txn/other")])
        assert not again.succeeded
        assert (await etcd.read("/txn/")).items["/txn/other"].value == b"x"
        ours = [Compare("/txn/leader", "create_revision", taken.revision), Compare("/txn/leader", "value", b"a")]
        ours += [Compare("/txn/leader", "lease", 0), Compare("/txn/leader", "version", 1)]
        ours += [Compare("/txn/leader", "mod_revision", taken.revision)]
        assert (await etcd.txn(ours, [Delete("/txn/leader")])).succeeded
        assert set((await etcd.read("/txn/")).items) == {"/txn/other"}

    talk(lone.endpoints, what)


def test_read_takes_what_begins_with_the_prefix_and_nothing_else(lone: EtcdCluster) -> None:
    async def what(etcd: Etcd) -> None:
        await etcd.txn([], [Put("/read/a/x", b"\0\xff"), Put("/read/ab/x", b""), Put("/read/a", b"")])
        found = await etcd.read("/read/a/")
        assert {key: item.value for key, item in found.items.items()} == {"/read/a/x": b"\0\xff"}
        assert (await etcd.read("/read/none/")).items == {}

    talk(lone.endpoints, what)


def test_watch_reports_all_changes_after_a_revision_in_order_and_divides_no_revision(lone: EtcdCluster) -> None:
    async def what(etcd: Etcd) -> None:
        first = await etcd.txn([], [Put("/watch/before", b"")])
        await etcd.txn([], [Put("/watch/a", b"1"), Put("/watch/b", b"2")])
        async with aclosing(etcd.watch("/watch/", first.revision)) as changes:
            both = await anext(changes)
            assert [(one.key, one.item and one.item.value) for one in both] == [("/watch/a", b"1"), ("/watch/b", b"2")]
            last = await etcd.txn([], [Delete("/watch/a")])
            assert await anext(changes) == [KeyChange("/watch/a", last.revision, None)]

    talk(lone.endpoints, what)


def test_silent_watch_is_opened_anew_and_misses_nothing(lone: EtcdCluster) -> None:
    opened: list[int] = []

    async def run() -> None:
        async with listening(way_to(lone.endpoints[0], opened=opened)) as way:
            etcd = Etcd(EtcdSettings((way,)), timeout_s=LONG_S, watch_s=0.2)
            try:
                start = (await etcd.read("/anew/")).revision
                async with aclosing(etcd.watch("/anew/", start)) as changes:
                    waiting = asyncio.ensure_future(anext(changes))
                    while len(opened) < 4:  # one for the read, the others for watches
                        await asyncio.sleep(0.02)
                    await etcd.txn([], [Put("/anew/x", b"")])
                    assert [one.key for one in await waiting] == ["/anew/x"]
            finally:
                await etcd.close()

    asyncio.run(run())


def test_watch_from_a_revision_that_was_compacted_says_so(lone: EtcdCluster) -> None:
    async def what(etcd: Etcd) -> None:
        old = await etcd.txn([], [Put("/compact/a", b"1")])
        new = await etcd.txn([], [Put("/compact/a", b"2")])
        post(lone.endpoints[0], "kv/compaction", {"revision": str(new.revision), "physical": True})
        with pytest.raises(Compacted):
            await anext(etcd.watch("/compact/", old.revision - 1))
        assert (await etcd.read("/compact/")).items["/compact/a"].value == b"2"

    talk(lone.endpoints, what)


def test_renewals_share_one_connection(lone: EtcdCluster) -> None:
    opened: list[int] = []

    async def run() -> None:
        async with listening(way_to(lone.endpoints[0], opened=opened)) as way:
            etcd = Etcd(EtcdSettings((way,)), timeout_s=LONG_S, witness="/x")
            lease = await etcd.grant(60)
            for _ in range(5):
                await etcd.keep_alive(lease)
            await etcd.close()

    asyncio.run(run())
    assert len(opened) == 1


# ---- members that fail -----------------------------------------------------------------------------------------------


def test_one_of_three_members_may_die_and_nothing_is_missed(etcd_cluster: EtcdCluster) -> None:
    async def what(etcd: Etcd) -> None:
        lease = await etcd.grant(60)
        revision = (await etcd.txn([], [Put("/x/a", b"1", lease)])).revision
        async with aclosing(etcd.watch("/x/", revision - 1)) as changes:
            assert [one.key for one in await anext(changes)] == ["/x/a"]
            etcd_cluster.kill(etcd_cluster.names[0])  # the one that all of it has gone to
            assert await until(lambda: etcd.keep_alive(lease)) > 0
            await until(lambda: etcd.txn([], [Put("/x/b", b"2", lease)]))
            try:
                told = await anext(changes)
            except EtcdUnavailable:  # no leader for a moment: the next watch goes on where this one ended
                told = await until(lambda: anext(etcd.watch("/x/", revision)))
            assert {one.key for one in told} == {"/x/b"}
        states = await etcd.status()
        assert [bool(one.problem) for one in states] == [True, False, False]

    talk(etcd_cluster.endpoints, what, witness="/x/leader")


async def _for_ever(call: Callable[[], Awaitable[Any]]) -> None:
    while True:
        await call()


def test_frozen_member_costs_half_of_the_timeout_once_and_is_then_avoided(etcd_cluster: EtcdCluster) -> None:
    async def what(etcd: Etcd) -> None:
        lease = await etcd.grant(300)
        etcd_cluster.freeze(etcd_cluster.names[0])
        try:
            # If it was etcd's leader, the others elect a new one first.
            assert await until(lambda: etcd.keep_alive(lease)) > 0
            assert etcd._in_turn()[0] != etcd_cluster.endpoints[0]
            assert await until(lambda: etcd.keep_alive(lease)) > 0
        finally:
            etcd_cluster.thaw(etcd_cluster.names[0])

    talk(etcd_cluster.endpoints, what, timeout_s=4)


def test_without_a_majority_nothing_is_answered_until_it_is_back(etcd_cluster: EtcdCluster) -> None:
    async def what(etcd: Etcd) -> None:
        lease = await etcd.grant(300)
        for name in etcd_cluster.names[1:]:
            etcd_cluster.kill(name)
        with pytest.raises(EtcdUnavailable) as failure:
            await _for_ever(lambda: etcd.keep_alive(lease))  # the member that is left takes a moment to know
        assert etcd_cluster.endpoints[0] in str(failure.value)
        with pytest.raises(EtcdUnavailable):
            await etcd.read("/x/")
        with pytest.raises(EtcdUnavailable):
            await anext(etcd.watch("/x/", 1))
        etcd_cluster.start()
        assert await until(lambda: etcd.keep_alive(lease)) > 0

    talk(etcd_cluster.endpoints, what, timeout_s=5, witness="/x/leader")


def test_client_works_with_an_etcd_that_needs_a_second_for_each_answer(lone: EtcdCluster) -> None:
    async def run() -> None:
        async with listening(way_to(lone.endpoints[0], delay_s=1)) as way:
            etcd = Etcd(EtcdSettings((way,)), timeout_s=LONG_S, witness="/slow")
            lease = await etcd.grant(60)
            assert await etcd.keep_alive(lease) > 0
            await etcd.close()

    asyncio.run(run())


NONSENSE: list[tuple[Serve, str]] = [
    (saying(b"SSH-2.0-OpenSSH_9\r\n"), "is no etcd, or wants TLS"),
    (saying(b""), "is no etcd, or wants TLS"),
    (resets, "hangs up at the request: it is ending, or wants TLS (https://)"),
    (saying(b"HTTP/1.1 200 OK\r\n\r\n<html>hello</html>"), "is no etcd: its answer is <html>"),
    (saying(b'HTTP/1.1 200 OK\r\n\r\n{"header": 5}'), "is no etcd"),
    (saying(b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000), "is no etcd"),
    (saying(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b"), "is no etcd"),
    (saying(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), "HTTP 302"),
    (saying(b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n404"), "is no etcd, or one before 3.4"),
    (saying(b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops"), "answers with HTTP 500: oops"),
    (
        saying(b'HTTP/1.1 503 No\r\n\r\n{"error":{"grpc_code":14,"message":"no leader"}}'),
        "answers with HTTP 503: no leader",
    ),
    (saying(b'HTTP/1.1 503 No\r\nContent-Length: 43\r\n\r\n{"code":14,"message":"etcdserver: no leader"'), "HTTP 503"),
    (endless, "answers with more than"),
    (silent, "does not answer within"),
]


@pytest.mark.parametrize(("serve", "text"), NONSENSE, ids=[text[-20:] + str(i) for i, (_, text) in enumerate(NONSENSE)])
def test_endpoint_that_is_no_etcd_is_named_and_the_next_one_serves(lone: EtcdCluster, serve: Serve, text: str) -> None:
    async def run() -> None:
        async with listening(serve) as wrong:
            etcd = Etcd(EtcdSettings((wrong,)), timeout_s=1 if serve is silent else LONG_S)
            for call in (etcd.read("/x/"), etcd.grant(60), etcd.keep_alive(5), anext(etcd.watch("/x/", 1))):
                with pytest.raises(EtcdUnavailable) as failure:
                    await call
                assert wrong in str(failure.value)
            (state,) = await etcd.status()
            assert text in state.problem
            await etcd.close()
            both = Etcd(EtcdSettings((wrong, lone.endpoints[0])), timeout_s=2 if serve is silent else LONG_S)
            assert await until(lambda: both.grant(60)) > 0
            await both.close()

    asyncio.run(run())


def test_transaction_whose_answer_is_lost_is_not_sent_to_another_member(etcd_cluster: EtcdCluster) -> None:
    async def run() -> None:
        async with listening(way_to(etcd_cluster.endpoints[0], answers=False)) as way:
            etcd = Etcd(EtcdSettings((way, etcd_cluster.endpoints[1])), timeout_s=4)
            with pytest.raises(EtcdUnavailable):
                await etcd.txn([], [Put("/once/x", b"")])
            # It was done, and the next call goes to the other member.
            item = (await until(lambda: etcd.read("/once/"))).items["/once/x"]
            assert item.create_revision == item.mod_revision
            await etcd.close()

    asyncio.run(run())


def test_renewal_by_a_leader_that_was_cut_off_does_not_count() -> None:
    """The member's term has changed between the renewal and the read that a majority confirms."""
    terms = iter(["2", "3", "3", "3"])

    def answer(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        header = HEADER | {"raft_term": next(terms)}
        found: dict[str, Any] = {"header": header}
        if path == "lease/keepalive":
            found = {"result": found | {"ID": "5", "TTL": "15"}}
        return 200, json.dumps(found).encode()

    async def run() -> None:
        async with listening(answering(answer)) as member:
            etcd = Etcd(EtcdSettings((member,)), timeout_s=LONG_S, witness="/x")
            with pytest.raises(EtcdUnavailable, match="another leader"):
                await etcd.keep_alive(5)
            assert await etcd.keep_alive(5) == 15
            await etcd.close()

    asyncio.run(run())


def test_member_of_another_etcd_is_not_asked_for_ours_unless_there_is_no_other(lone: EtcdCluster) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        return 200, json.dumps({"header": HEADER}).encode()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            foreign = await stack.enter_async_context(listening(answering(answer)))
            both = Etcd(EtcdSettings((lone.endpoints[0], foreign)), timeout_s=LONG_S)
            await both.read("/x/")
            both._first = 1
            assert int((await both.read("/x/")).revision) != int(HEADER["revision"]) or both._first == 0
            assert both._first == 0
            await both.close()
            alone = Etcd(EtcdSettings((foreign,)), timeout_s=LONG_S)
            alone._cluster_id = "of before"
            with pytest.raises(EtcdUnavailable, match="another etcd"):
                await alone.read("/x/")
            assert (await alone.read("/x/")).revision == int(HEADER["revision"])
            await alone.close()

    asyncio.run(run())


# ---- the rest --------------------------------------------------------------------------------------------------------


def test_https_to_a_member_without_tls_is_named_as_the_fault(lone: EtcdCluster) -> None:
    async def what(etcd: Etcd) -> None:
        with pytest.raises(EtcdUnavailable, match="speaks no TLS"):
            await etcd.read("/x/")

    talk([lone.endpoints[0].replace("http", "https")], what)


def test_member_that_resets_the_connection_when_tls_begins_may_speak_none() -> None:
    """The same member, when the kernel drops its answer: it closed the connection before it had read everything."""

    async def story() -> None:
        async with listening(resets) as url:
            client = Etcd(EtcdSettings((url.replace("http", "https"),)), timeout_s=LONG_S, witness="", watch_s=30)
            with pytest.raises(EtcdUnavailable, match="speaks no TLS"):
                await client.read("/x/")
            await client.close()

    asyncio.run(story())


def test_no_member_of_etcd_is_left_when_its_harness_ends(base: Path) -> None:
    with running(base, 3) as cluster:
        processes = [cluster.process(name) for name in cluster.names]
        assert all(processes)
        cluster.signal(cluster.names[0], signal.SIGSTOP)
    assert not any(process and process.is_running() for process in processes)
