"""The store of a master in an election writes only under the lease: it looks when a request arrives, and once more
before the commit."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.store import agents, change_log, follow_keys, gate, table
from clusterd.store.engine import Session
from clusterd.store.errors import NotLeading
from clusterd.store.follow import Follower
from clusterd.store.keys import keys_in_use
from tests.store.gate_bench import ADD, Bench, run
from tests.store.test_engine import add, count


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a write waits for the lead to come back."""
    monkeypatch.setattr(gate, "CHANGE_S", 0.01)


def test_nothing_is_written_without_the_lease_and_everything_can_be_read(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        await bench.engine.write(add(1))
        bench.leads = False
        with pytest.raises(NotLeading):
            await bench.engine.write(add(2))
        assert await bench.engine.read(count) == 1
        bench.leads = True
        await bench.engine.write(add(2))
        assert await bench.engine.read(count) == 2

    run(tmp_path, story)


def test_a_write_waits_a_moment_for_the_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was executed: whoever asks in the moment in which a node takes the lead, or has lost it, waits."""
    monkeypatch.setattr(gate, "CHANGE_S", 60.0)

    async def story(bench: Bench) -> None:
        bench.leads = False
        waiting = [asyncio.ensure_future(one) for one in (bench.engine.write(add(1)), bench.add("early"))]
        await asyncio.sleep(0.2)
        assert not any(one.done() for one in waiting)
        bench.leads = True
        assert b'"error":0' in (await asyncio.gather(*waiting))[1]
        bench.leads = False
        waiting = [asyncio.ensure_future(bench.engine.write(add(3)))]
        await asyncio.sleep(0.2)
        assert not waiting[0].done()
        monkeypatch.setattr(gate, "CHANGE_S", 0.0)
        with pytest.raises(NotLeading):
            await waiting[0]

    run(tmp_path, story)


def test_a_lease_that_ends_while_a_write_is_made_takes_it_back(tmp_path: Path) -> None:
    """As when the machine sleeps between the statement and the commit."""

    async def story(bench: Bench) -> None:
        def work(session: Session) -> None:
            agents.insert_agent(session, agents.NewAgentRow(7, "late", 1))
            bench.leads = False

        for durable in (False, True):
            bench.leads = True
            with pytest.raises(NotLeading):
                await bench.engine.write(work, durable=durable)
        assert await bench.engine.read(count) == 0

    run(tmp_path, story)


def test_a_write_that_was_committed_just_before_the_lease_ended_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine sleeps between the commit and the answer: by then another node may lead."""

    async def story(bench: Bench) -> None:
        commit = bench.engine._commit

        def at_the_last_moment(durable: bool) -> None:
            commit(durable)
            bench.leads = False

        monkeypatch.setattr(bench.engine, "_commit", at_the_last_moment)
        with pytest.raises(NotLeading):
            await bench.engine.write(add(1))
        assert await bench.engine.read(count) == 1

    run(tmp_path, story)


def test_no_agent_is_registered_without_the_lease(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.leads = False
        assert b'"error":9009' in await bench.add("early")
        assert bench.keys == ""
        bench.leads = True
        assert b'"error":0' in await bench.add("timely")

    run(tmp_path, story)


def test_no_key_is_written_when_the_lease_ends_behind_the_row(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        real = bench.engine.write

        async def write(*arguments: object, **options: object) -> object:
            found = await real(*arguments, **options)  # type: ignore[arg-type]
            bench.leads = False
            return found

        bench.engine.write = write  # type: ignore[method-assign,assignment]
        before = bench.file.marks.doubts
        assert b'"error":9009' in await bench.add("late")
        assert bench.keys == ""
        assert bench.file.marks.doubts > before, "the follower is to look: the row has no key"

    run(tmp_path, story)


def test_what_no_candidate_has_confirmed_is_not_answered_as_done(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.may_answer = False
        answer = await bench.add("one")
        assert b'"error":9009' in answer
        assert b"no candidate has confirmed it" in answer
        taken = (ADD % b"one").replace(b"any", b"10.0.0.1")
        answer = await bench.authd.answer(taken)
        assert b'"error":9009' in answer
        assert b"may be lost" in answer, "nor is what follows from it: that the name is taken"
        bench.may_answer = True
        assert b'"error":9008' in await bench.authd.answer(taken)
        assert b'"error":0' in await bench.add("one"), "nobody was told of it"
        assert b'"error":9008' in await bench.add("one")
        assert b'"error":0' in await bench.add("two")

    run(tmp_path, story)


def test_what_an_earlier_life_of_the_store_has_done_is_confirmed_before_it_counts(tmp_path: Path) -> None:
    """It was killed between the file and the answer: that the name is taken now may be lost with this node, too."""

    async def story(bench: Bench) -> None:
        assert b'"error":0' in await bench.add("one")
        asked: list[int] = []

        async def replicated(position: int) -> bool:
            asked.append(position)
            return True

        bench.begin_next_life(replicated)
        assert b'"error":9008' in await bench.add("one")
        assert asked == [await bench.engine.read(change_log.head)]
        assert asked[0] > 0

    run(tmp_path, story)


def test_agent_that_no_candidate_has_is_not_told_of_and_all_others_are(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.may_answer = False
        assert b'"error":9009' in await bench.get("001")
        bench.may_answer = True
        assert b'"error":0' in await bench.add("sure")
        bench.may_answer = False
        assert b'"error":9009' in await bench.add("unsure")
        assert b'"error":0' in await bench.get("001")
        assert b'"error":9009' in await bench.get("002")
        bench.may_answer = True
        assert b'"error":0' in await bench.get("002")
        bench.may_answer = False
        assert b'"error":0' in await bench.get("002"), "a candidate has it since"
        # An earlier life of the store may have made any of them.
        bench.begin_next_life(bench._replicated)
        assert b'"error":9009' in await bench.get("001")
        bench.may_answer = True
        assert b'"error":0' in await bench.get("001")

    run(tmp_path, story)


def test_what_could_not_be_answered_is_not_begun(tmp_path: Path) -> None:
    """Who asked again later would hear that the name is taken, and a fleet that enrols would use up ids."""

    async def story(bench: Bench) -> None:
        assert b'"error":0' in await bench.add("one")
        bench.cannot = "no member of etcd answers"
        keys, head = bench.keys, await bench.engine.read(change_log.head)
        asked = ("two", "three", "one")
        answers = await asyncio.gather(
            *map(bench.add, asked),
            bench.authd.answer(b'{"function": "remove", "arguments": {"id": "001"}}'),
            bench.get("001"),
        )
        assert [b'"error":0' in answer for answer in answers] == [False] * 4 + [True]
        assert all(b"no member of etcd answers" in answer for answer in answers[:4])
        assert (bench.keys, await bench.engine.read(change_log.head), bench.said) == (keys, head, [])
        bench.cannot = ""
        assert b'"id":"002"' in await bench.add("two")

    run(tmp_path, story)


def follower(bench: Bench) -> Follower:
    return Follower(
        bench.engine,
        bench.private,
        bench.root,
        on_worker=False,
        is_first_life=True,
        read_keys=lambda: keys_in_use(bench.root),
        authd=lambda: bench.file.marks,
        say=lambda level, text: bench.said.append(text),
        gate=bench.gate,
    )


def test_a_master_without_the_lease_deletes_nothing_that_it_finds_missing(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        looking = follower(bench)
        bench.leads = False
        Path(bench.root, "etc/shared/web").mkdir()
        await looking.look()
        names = await bench.engine.read(lambda db: [row[0] for row in db.execute('select name from "group"')])
        assert (names, bench.said) == ([], [])
        bench.leads = True
        await looking.look()
        names = await bench.engine.read(lambda db: [row[0] for row in db.execute('select name from "group"')])
        assert names == ["web"]

    run(tmp_path, story)


def test_what_authd_had_begun_when_the_lease_ended_is_looked_at_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row was committed, and its key not written: the file is the one that was read before."""
    monkeypatch.setattr(follow_keys, "SURE_S", 0.0)

    async def story(bench: Bench) -> None:
        looking = follower(bench)
        Path(bench.root, "etc/client.keys").write_text("001 one any k1\n")
        await looking.look()
        await bench.engine.write(add(7))
        await bench.engine.write(lambda session: table.note_seen(session, table.KEYS, ["7"]))
        await looking.look()
        assert await bench.engine.read(count) == 2, "authd's own business"
        bench.leads = False
        await looking.look()
        bench.leads = True
        await looking.look()
        assert await bench.engine.read(count) == 1

    run(tmp_path, story)


def test_row_that_authd_could_not_take_back_goes_although_it_reads_the_file_of_others_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the first batch after a start: the follower has read that file long before."""
    monkeypatch.setattr(follow_keys, "SURE_S", 0.0)
    monkeypatch.setattr(follow_keys, "YOUNG_S", 0.0)

    async def story(bench: Bench) -> None:
        Path(bench.root, "etc/client.keys").write_text("001 one any k1\n")
        looking = follower(bench)
        await looking.look()
        await _begin_and_lose_the_lease(bench)
        assert b'"id":"001"' in await bench.get("001")
        assert await bench.engine.read(count) == 2
        await looking.look()
        assert await bench.engine.read(count) == 1

    run(tmp_path, story)


def test_row_that_authd_could_not_take_back_goes_before_the_next_request_is_decided(tmp_path: Path) -> None:
    """A candidate that takes over would make a key of it, beside that of whoever asks again."""

    async def story(bench: Bench) -> None:
        await _begin_and_lose_the_lease(bench)
        assert await bench.engine.read(count) == 1
        assert b'"error":0' in await bench.add("late")
        assert await bench.engine.read(count) == 1

    run(tmp_path, story)


async def _begin_and_lose_the_lease(bench: Bench) -> None:
    """The row of a new agent is written, its key is not, and the row cannot be deleted."""
    write = bench.engine.write

    async def last_one(work: Callable[[Session], object], *, durable: bool = False, alone: bool = False) -> object:
        done = await write(work, durable=durable, alone=alone)
        bench.leads = False
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.engine, "write", last_one)
        assert b'"error":9009' in await bench.add("late")
    bench.leads = True
