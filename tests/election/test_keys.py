"""Values in etcd are bounded, and no step fails over one, whatever a program has written there."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from clusterd.election.etcd import Item
from clusterd.election.keys import MOST_BASE, MOST_NAME, LastKey, encode, is_address, view_of
from clusterd.election.shown import shown
from tests.election.stories import P, at_most_one, last, order, pass_time, set_followers, three
from tests.fakes.etcd import EtcdStore, HandClock

DEEP = b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
JUNK = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "number": b"7",
    "deep": DEEP,
    "deep and open": b"[" * 60_000,
    "one MiB": b'"' + b"x" * (1 << 20) + b'"',
    "no JSON": b"\xff\xfe{",
    "half": b'{"name":"two","id"',
}
KEYS = ("config", "leader", "last", "order", "candidates/two", "candidates/new", "members/two", "members/\n", "else")


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("junk", JUNK)
def test_key_with_junk_counts_as_a_key_without_content(name: str, junk: str) -> None:
    view = view_of(P, 7, {f"{P}{name}": Item(JUNK[junk], 5, 6, 0)})
    assert view.revision == 7
    assert not view.candidates
    assert (view.config, view.last, view.order) == (None, None, None)
    assert "\n" not in "".join(view.unreadable)
    if name == "members/two":
        assert list(view.members) == ["two"], "with failsafe it is asked still"
    if name == "leader":
        assert view.leader is not None, "it is held, by nobody that is known"


@pytest.mark.parametrize(
    ("said", "is_readable"),
    [
        ("plain", True),
        ("ü \\ /", True),
        ("a\nb", False),
        ("a\x7fb", False),
        ("a\u202eb", False),
        ("a\x1b[2J", False),
    ],
)
@pytest.mark.parametrize("is_escaped", [False, True])
def test_text_that_cannot_be_printed_makes_a_key_unreadable(said: str, is_readable: bool, is_escaped: bool) -> None:
    value = json.dumps({"name": "two", "id": said, "advertise": "h:1"}, ensure_ascii=is_escaped).encode()
    view = view_of(P, 7, {f"{P}leader": Item(value, 5, 6, 0)})
    assert view.unreadable == (() if is_readable else ("leader",))
    assert view.leader_name == ("two" if is_readable else "")


def changed(value: bytes, **more: Any) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(value) | more)


NUMBERS = (-1, 1 << 53, 1 << 63, 10**30, 1.5, True, "7", [], None)
WRONG: list[tuple[str, str, Any]] = [
    *(("config", "base", number) for number in (*NUMBERS, MOST_BASE + 1)),
    *((key, "position", number) for key in ("last", "candidates/two") for number in (-1, 1 << 63, 10**30, 0.5, "1")),
    *(("last", name, number) for name in ("floor", "term") for number in (-1, 10**30, "1", None)),
    *(("last", "at", number) for number in (-1.0, 1e300, "now")),
    *(("last", "past", past) for past in ([["e", -1]], [["e"]], [["e", 1]] * 65, [["\n", 1]], {})),
    *(("candidates/two", "past", past) for past in ([["e", 10**30]], "e")),
    *(("candidates/two", "lag", number) for number in (-1, 10**30)),
    *(("candidates/two", "since", number) for number in (-1, 1e300)),
    *(("candidates/two", "led", number) for number in (-1, 1 << 53)),
    *(("candidates/two", "priority", number) for number in (-1, 10**30)),
    *(("candidates/two", "may_not_lead", text) for text in ("a\nb", "\x1b[2J", "x" * 2001, 5)),
    *(("candidates/two", "name", text) for text in ("another", "x" * (MOST_NAME + 1), "two\n")),
    *(("leader", "advertise", text) for text in ("here:1\n", "h:" + "9" * 5000, "h:0", "h", 5)),
    *(("leader", "id", text) for text in ("x" * (MOST_NAME + 1), None)),
    *(("members/two", "advertise", text) for text in ("h" * 501, 5)),
]


@pytest.mark.parametrize(("name", "member", "value"), WRONG, ids=[f"{n} {m} {str(v)[:20]!r}" for n, m, v in WRONG])
def test_wrong_value_stops_no_elector_and_makes_no_two_leaders(name: str, member: str, value: Any) -> None:
    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, two, other = await three(store)
        key = f"{P}{name}"
        store.put(key, changed(store.items[key].value, **{member: value}), store.items[key].lease)
        await pass_time(10, one, two, other)
        if name in ("config", "leader"):
            assert not any(node.leads for node in (one, two, other)), "nobody knows who would lead"
            assert one.elector.session.problem
        else:
            assert one.leads
        if name == "last":
            assert msgspec.json.decode(store.items[key].value, type=LastKey).term == one.elector.tenure.term
        for node in (one, two, other):
            shown(node.elector, node.node.true, clock.now)
            node.restart()
        await pass_time(40, one, two, other)

    asyncio.run(story())


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", KEYS)
def test_junk_under_any_key_stops_no_elector(name: str, junk: str) -> None:
    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, two, other = await three(store)
        item = store.items.get(f"{P}{name}")
        store.put(f"{P}{name}", JUNK[junk], 0 if item is None else item.lease)
        await pass_time(10, one, two, other)
        assert one.leads == (name not in ("config", "leader"))
        if name in ("config", "leader"):
            return
        set_followers(one, two, other)
        assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "two", 10)).ok
        assert last(store).confirming == "two"
        clock.now += 16
        await pass_time(20, two, other)
        assert two.leads, two.elector.session.waits_for

    asyncio.run(story())


def test_base_beyond_all_terms_tells_the_operator_what_to_do() -> None:
    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, two, other = await three(store)
        config = store.items[f"{P}config"].value
        store.put(f"{P}config", changed(config, base=MOST_BASE + 1))
        await pass_time(3, one, two, other)
        assert not one.leads
        for node in (one, two, other):
            assert f"{P}config in etcd cannot be read" in node.elector.session.problem
        refused = await order(two, "bootstrap")
        assert not refused.ok
        assert "put the former value there" in refused.text
        store.put(f"{P}config", config)
        await pass_time(5, one, two, other)
        assert one.leads
        del store.items[f"{P}config"]
        store.revision += 1
        await pass_time(3, one, two, other)
        refused = await order(one, "bootstrap", term=MOST_BASE + 1)
        assert not refused.ok
        assert "no cluster goes on" in refused.text
        at_most_one(one, two, other)

    asyncio.run(story())


def test_key_of_a_node_can_be_read_whatever_the_nodes_name() -> None:
    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, two, other = await three(store)
        two.node.set(may_not_lead="its files are incomplete: etc/lists/a\nb: " + "x" * 5000)
        await pass_time(3, one, two, other)
        assert one.elector.session.view.candidates["two"].may_not_lead.startswith("its files are incomplete")
        assert "candidates/two" not in one.elector.session.view.unreadable

    asyncio.run(story())


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("h:1", True), ("[::1]:1516", True), ("h", False), ("h:" + "9" * 5000, False), ("h" * 600 + ":1", False)],
)
def test_address_is_host_and_port(text: str, is_one: bool) -> None:
    assert is_address(text) == is_one


def test_keys_that_we_write_are_within_the_bounds_that_we_read() -> None:
    past = tuple((f"{number:016x}", 1 << 40) for number in range(8))
    value = encode(LastKey(1 << 50, "n" * 255, "e" * 16, 1 << 50, "m" * 255, 1.8e9, 1 << 50, past))
    assert view_of(P, 1, {f"{P}last": Item(value, 1, 1)}).last is not None
