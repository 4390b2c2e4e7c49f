"""Long strings and files in chunks (wire.md 4.3, 4.4; W1, W2, R2, R4)."""

import itertools

import pytest

from clusterd.errors import ClusterError
from clusterd.wire.transfer import Files, Strings, chunk_bytes, package_of_path

PATH = "/queue/cluster/worker1/worker1-1795408483.125199-54133d61dad6435fa79a935be83d5818.zip"


def strings(**limits: int) -> Strings[str]:
    options = {"max_bytes": 1000, "max_count": 3, "idle_s": 600} | limits
    return Strings(pick_id=itertools.count(10).__next__, **options)


def files(**limits: int) -> Files:
    options = {"max_bytes": 1000, "max_count": 2} | limits
    return Files("worker1", **options)


def test_full_chunk_with_its_name_is_exactly_one_frame() -> None:
    assert chunk_bytes(PATH) + len(PATH) + 1 == 5242880


@pytest.mark.parametrize("path", [PATH, "/queue/cluster/shared-1.zip"])
def test_package_of_this_connection_may_come(path: str) -> None:
    assert package_of_path(path, "worker1") == path.rpartition("/")[2]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "queue/cluster/worker1/a.zip",
        "/etc/client.keys",
        "/queue/cluster/worker1/../../../etc/a.zip",
        "/queue/cluster/worker1/sub/a.zip",
        "/queue/cluster/worker2/a.zip",
        "/queue/cluster/worker1/a.conf",
        "/queue/cluster//a.zip",
        "/queue/cluster/worker1/a\0.zip",
        "/queue/cluster/worker1/" + "a" * 10_000 + ".zip",
        "/queue/cluster/worker1/",
    ],
)
def test_file_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ClusterError) as refusal:
        package_of_path(path, "worker1")
    assert refusal.value.code == 1000
    assert len(str(refusal.value)) < 500


def test_string_is_filled_in_order_and_what_is_too_much_is_dropped() -> None:
    inbox = strings()
    string = inbox.begin(10, "spool-1", now=0.0)
    assert inbox.find(string.id).accept(4, 1.0) == 4
    assert inbox.find(string.id).accept(9, 2.0) == 6
    assert inbox.take(string.id) is string
    with pytest.raises(ClusterError) as gone:
        inbox.take(string.id)
    assert gone.value.code == 3035


def test_strings_are_bounded_in_bytes_and_number() -> None:
    inbox = strings()
    inbox.begin(1000, "a", 0.0)
    with pytest.raises(ClusterError):
        inbox.begin(1, "b", 0.0)
    inbox.begin(0, "b", 0.0)
    inbox.begin(0, "c", 0.0)
    with pytest.raises(ClusterError):
        inbox.begin(0, "d", 0.0)
    assert len(list(inbox)) == 3


def test_string_ids_do_not_collide() -> None:
    inbox: Strings[str] = Strings(max_bytes=10, max_count=5, idle_s=1, pick_id=lambda: 2**32 - 1)
    assert [inbox.begin(0, "", 0.0).id for _ in range(3)] == ["4294967295", "0", "1"]


def test_abandoned_string_is_the_first_of_its_length_of_which_nothing_came() -> None:
    inbox = strings()
    begun = inbox.begin(12, "a", 0.0)
    begun.accept(1, 0.0)
    untouched = inbox.begin(12, "b", 0.0)
    assert inbox.abandon(12) is untouched
    assert inbox.abandon(12) is None
    assert inbox.find(begun.id) is begun


def test_unused_string_is_removed_after_a_while() -> None:
    inbox = strings()
    old, kept = inbox.begin(5, "a", 0.0), inbox.begin(5, "b", 0.0)
    kept.accept(1, 500.0)
    assert inbox.expire(600.0) == []
    assert inbox.expire(601.0) == [old]
    assert inbox.take_all() == [kept]


def test_unknown_string_is_refused_with_the_recorded_text() -> None:
    with pytest.raises(ClusterError) as refusal:
        strings().find("nope")
    assert (refusal.value.code, refusal.value.extra) == (1000, "b'nope'")


def test_file_is_claimed_once_when_it_is_complete() -> None:
    inbox = files()
    file, earlier = inbox.begin(PATH, "spool-1", awaited=True)
    assert earlier is None
    inbox.accept(inbox.find(PATH), 900)
    assert inbox.claim(PATH[1:]) is None
    file.complete = True
    with pytest.raises(ClusterError):
        inbox.find(PATH)
    assert inbox.claim(PATH) is None
    assert inbox.claim(PATH[1:]) is file
    assert inbox.claim(PATH[1:]) is None


def test_file_is_refused_if_unexpected_or_too_large_or_one_too_many() -> None:
    inbox = files()
    with pytest.raises(ClusterError):
        inbox.begin(PATH, "a", awaited=False)
    file, _ = inbox.begin(PATH, "a", awaited=True)
    with pytest.raises(ClusterError):
        inbox.accept(file, 1001)
    inbox.accept(file, 1000)
    with pytest.raises(ClusterError, match="only be named"):
        inbox.begin("/etc/ossec.conf", "b", awaited=True)
    inbox.begin("/queue/cluster/b.zip", "b", awaited=True)
    with pytest.raises(ClusterError):
        inbox.begin("/queue/cluster/c.zip", "c", awaited=True)
    inbox.drop(file)
    assert not inbox.has(file)
    assert len(list(inbox)) == 1


def test_file_begun_again_starts_at_zero_and_releases_the_earlier_one() -> None:
    inbox = files()
    first, _ = inbox.begin(PATH, "a", awaited=True)
    inbox.accept(first, 10)
    second, earlier = inbox.begin(PATH, "b", awaited=True)
    assert earlier is first
    assert second.received == 0
    assert inbox.take_all() == [second]
