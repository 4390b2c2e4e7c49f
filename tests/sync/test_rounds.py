"""When a worker checks: no wake-up is lost, and it never checks in a tight loop."""

import asyncio

import pytest

from clusterd.errors import ClusterError
from clusterd.sync.integrity import rounds
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.net_port import LinkClosed
from tests.sync.rounds_bench import A, B, Bench, C, differs, run, settle

NOTHING: frozenset[str] = frozenset()


def test_first_check_below_a_clusterd_master_is_at_once_and_then_by_the_clock() -> None:
    async def story() -> None:
        bench = Bench(interval_s=0.05)
        bench.link()
        await bench.checked(3)
        assert bench.worker.equal >= 3
        assert bench.worker.stock_checks == 0
        await bench.unlink()

    run(story())


def test_first_check_below_a_stock_master_comes_after_an_interval() -> None:
    async def story() -> None:
        bench = Bench(interval_s=0.3, capabilities=NOTHING)
        began = asyncio.get_running_loop().time()
        bench.link()
        await bench.until(lambda: bench.worker.stock_checks == 1)
        assert asyncio.get_running_loop().time() - began >= 0.3
        assert bench.master.asked == ["syn_i_w_m_p"]
        await bench.unlink()

    run(story())


def test_nothing_is_asked_before_both_ends_know_what_they_can() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.knows.clear()
        bench.link()
        await settle()
        assert bench.master.asked == []
        bench.master.knows.set()
        await bench.checked(1)
        await bench.unlink()

    run(story())


def test_change_of_the_master_is_checked_at_once() -> None:
    async def story() -> None:
        bench = Bench()
        bench.link()
        await bench.checked(1)
        bench.changed(B)
        await bench.checked(2)
        await bench.unlink()

    run(story())


def test_change_that_this_node_has_already_costs_no_check() -> None:
    async def story() -> None:
        bench = Bench()
        bench.link()
        await bench.checked(1)
        bench.changed(A)
        await settle()
        assert bench.master.count() == 1
        await bench.unlink()

    run(story())


def test_flood_of_changes_is_one_check() -> None:
    async def story() -> None:
        bench = Bench()
        bench.link()
        await bench.checked(1)
        for _ in range(1000):
            bench.changed(B)
        await bench.checked(2)
        assert bench.master.count() == 2
        await bench.unlink()

    run(story())


def test_change_announced_during_a_check_is_checked_after_it() -> None:
    async def story() -> None:
        bench = Bench()
        gate = asyncio.Event()

        async def later() -> bytes:
            await gate.wait()
            return b"equal"

        bench.master.answers["syn_digest"] = lambda payload: later()
        bench.link()
        await bench.checked(1)
        bench.changed(B)
        gate.set()
        await bench.checked(2)
        await bench.unlink()

    run(story())


@pytest.mark.parametrize("changed", [0, 3])
@pytest.mark.parametrize("capabilities", [frozenset({"digest", "push"}), frozenset({"push"})], ids=["digest", "push"])
def test_change_announced_while_a_package_is_applied_is_checked_after_it(
    changed: int, capabilities: frozenset[str]
) -> None:
    """This holds whether or not the package changed anything, and whether or not checks are by digest."""

    async def story() -> None:
        bench = Bench(interval_s=0.3, capabilities=capabilities)
        command = "syn_digest" if "digest" in capabilities else "syn_i_w_m_p"
        bench.link()
        await bench.until(lambda: bench.master.count(command) == 1)
        bench.context.settings.worker.sync_integrity_s = 60.0
        await bench.until(lambda: bench.master.count(command) == 2)
        bench.worker.is_syncing = True
        bench.changed(B)
        await asyncio.sleep(0.02)  # the wake is due, and finds the package under way
        assert bench.master.count(command) == 2
        bench.worker.sync_ends(changed)
        await bench.until(lambda: bench.master.count(command) == 3)
        await bench.unlink()

    run(story())


def test_operator_who_asks_while_a_package_is_applied_gets_a_check_after_it() -> None:
    async def story() -> None:
        bench = Bench()
        bench.link()
        await bench.checked(1)
        bench.worker.is_syncing = True
        bench.rounds.check_now()
        await settle()
        bench.worker.sync_ends(0)
        await bench.checked(2)
        await bench.unlink()

    run(story())


def test_master_that_lets_wait_is_asked_again_soon_and_then_less_often() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers["syn_digest"] = b"wait"
        loop = asyncio.get_running_loop()
        began = loop.time()
        bench.link()
        await bench.checked(4)
        assert loop.time() - began >= 0.1 + 0.2 + 0.4
        assert bench.worker.begun == 0
        bench.master.answers["syn_digest"] = b"equal"
        await bench.checked(5)
        count = bench.master.count()
        await settle()
        assert bench.master.count() == count
        await bench.unlink()

    run(story())


def test_tampering_is_undone_at_once_and_repeated_tampering_causes_no_tight_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        monkeypatch.setattr(rounds, "AGAIN_S", 1000.0)
        bench = Bench()
        bench.link()
        await bench.checked(1)
        bench.master.answers["syn_digest"] = differs(A)
        bench.master.answers["syn_buckets"] = b"sync 1"
        loop = asyncio.get_running_loop()
        bench.manifests.files = B
        bench.manifests.publish()
        await bench.checked(2)
        monkeypatch.setattr(rounds, "AGAIN_S", 0.3)
        began = loop.time()
        for number in range(200):
            bench.manifests.files = f"{number:032d}"
            bench.manifests.publish()
        await bench.checked(3)
        assert loop.time() - began >= 0.3
        assert bench.master.count() == 3
        await bench.unlink()

    run(story())


def test_change_that_a_check_finds_itself_starts_no_second_check() -> None:
    async def story() -> None:
        bench = Bench()
        bench.link()
        await bench.checked(1)
        bench.manifests.files = B
        bench.master.answers["syn_digest"] = differs(A)
        bench.master.answers["syn_buckets"] = b"sync 1"
        bench.rounds.check_now()
        await bench.checked(2)
        assert bench.master.count() == 2
        await bench.unlink()

    run(story())


def test_change_seen_after_the_scan_of_a_check_is_checked_after_it() -> None:
    """The check in flight has the state before the change."""

    async def story() -> None:
        bench = Bench()

        async def slow() -> bytes:
            bench.manifests.files = C
            bench.manifests.publish()
            bench.master.answers["syn_digest"] = differs(A)
            bench.master.answers["syn_buckets"] = b"sync 1"
            return b"equal"

        bench.master.answers["syn_digest"] = lambda payload: slow()
        bench.link()
        await bench.checked(2)
        await bench.unlink()

    run(story())


def test_files_that_a_sync_brought_start_no_check_of_their_own() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers["syn_digest"] = differs(B)
        bench.master.answers["syn_buckets"] = b"sync 1"
        bench.link()
        await bench.checked(1)
        bench.worker.is_syncing = True
        bench.manifests.files = B
        bench.manifests.publish()
        bench.worker.is_syncing = False
        bench.manifests.publish()
        await settle()
        assert bench.master.count() == 1
        await bench.unlink()

    run(story())


def test_files_that_never_become_equal_are_left_to_the_clock() -> None:
    """Each package changes a file, and the next check finds it different again."""

    async def story() -> None:
        bench = Bench()
        bench.master.answers["syn_digest"] = differs(B)
        bench.master.answers["syn_buckets"] = b"sync 1"
        bench.link()
        for number in range(1, 3):
            await bench.checked(number)
            bench.worker.is_syncing = True
            bench.worker.sync_ends(1)
        await settle()
        assert bench.master.count() == 2
        await bench.unlink()

    run(story())


def test_packages_that_get_somewhere_follow_one_another_without_a_pause() -> None:
    async def story() -> None:
        bench = Bench()
        counts = iter([b"sync 9", b"sync 5", b"sync 1"])
        bench.master.answers["syn_digest"] = differs(B)
        bench.master.answers["syn_buckets"] = lambda payload: next(counts)
        bench.link()
        for number in range(1, 4):
            await bench.checked(number)
            bench.worker.is_syncing = True
            bench.worker.sync_ends(4)
        bench.master.answers["syn_digest"] = b"equal"
        await bench.checked(4)
        assert bench.worker.last.result == "equal"
        await bench.unlink()

    run(story())


def test_scan_that_fails_again_and_again_is_left_to_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "AGAIN_S", 0.001)

    async def story() -> None:
        bench = Bench()
        bench.link()
        await bench.checked(1)
        bench.manifests.files = B
        bench.manifests.publish()
        bench.manifests.failure = ScanFailed("disk")
        await bench.until(lambda: bench.manifests.scans == 2)
        await asyncio.sleep(0.05)
        assert bench.manifests.scans == 2
        assert bench.worker.last.result == "failed"
        await bench.unlink()

    run(story())


@pytest.mark.parametrize("answer", [b"", b"maybe", b"differs x", ClusterError(1000, "no")], ids=str)
def test_master_that_talks_nonsense_is_asked_the_stock_way(answer: bytes | Exception) -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers["syn_digest"] = answer
        bench.link()
        await bench.until(lambda: bench.worker.stock_checks == 1)
        assert len(bench.errors()) == 1
        await bench.unlink()

    run(story())


def test_link_that_is_cut_during_a_check_causes_no_own_log_line() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers["syn_digest"] = LinkClosed("syn_digest")
        bench.link()
        await bench.until(lambda: bench.worker.last.result == "failed")
        assert (bench.errors(), bench.worker.stock_checks) == ([], 0)
        await bench.unlink()

    run(story())


def test_check_without_an_answer_is_reported_and_repeated_at_the_next_interval() -> None:
    async def story() -> None:
        bench = Bench(interval_s=0.05)
        bench.master.answers["syn_digest"] = ClusterError(3020, "syn_digest")
        bench.link()
        await bench.until(lambda: bench.master.count() == 2)
        assert bench.errors()
        assert bench.worker.stock_checks == 0
        await bench.unlink()

    run(story())


def test_link_lost_at_any_step_leaves_rounds_that_the_next_link_can_run() -> None:
    async def story() -> None:
        bench = Bench()
        bench.master.answers["syn_digest"] = differs(B)
        bench.master.answers["syn_buckets"] = b"sync 1"
        for number in range(12):
            bench.link()
            for _ in range(number):
                await asyncio.sleep(0)
            await bench.unlink()
            assert bench.context.progress == []
        bench.master.answers["syn_digest"] = b"equal"
        before = bench.master.count()
        bench.link()
        await bench.checked(before + 1)
        await bench.unlink()

    run(story())


def test_own_changes_without_a_link_wake_nobody_below_the_next_stock_master() -> None:
    async def story() -> None:
        bench = Bench()
        bench.link()
        await bench.checked(1)
        await bench.unlink()
        bench.manifests.files = B
        bench.manifests.publish()
        bench.rounds.check_now()
        bench.master.capabilities = NOTHING
        bench.link()
        await settle()
        assert bench.worker.stock_checks == 0
        await bench.unlink()

    run(story())


def test_unforeseen_failure_of_a_check_ends_no_rounds() -> None:
    async def story() -> None:
        bench = Bench(interval_s=0.02)
        bench.master.answers["syn_digest"] = ZeroDivisionError()
        bench.link()
        await bench.until(lambda: bench.master.count() >= 2)
        assert "Unexpected failure" in bench.errors()[0]
        bench.master.answers["syn_digest"] = b"equal"
        await bench.until(lambda: bench.worker.equal > 0)
        await bench.unlink()

    run(story())
