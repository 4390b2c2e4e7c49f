"""The database follows etc/client.keys: agents come with their keys, and go only with keys that were seen to go."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterd.agent_keys import Key
from clusterd.key_guard import KeyContent, note_accepted
from clusterd.messages.journal import RegistrationEvent
from clusterd.rundir import REMOVED_KEYS, STATE
from clusterd.store import agents, follow
from clusterd.store.keys import KeyFile, keys_in_use
from tests.store.following import Node


def test_agents_come_and_go_with_their_keys(live: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        node.keys.write_text("001 alpha any k1\n002 beta 10.0.0.2 k2\n")
        await node.look()
        assert await node.agents() == [1, 2]
        assert await node.column("select internal_key || register_ip from agent where id = 2") == ["k210.0.0.2"]
        node.keys.write_text("002 gamma 10.0.0.2 k2\n")
        await node.look()
        assert await node.agents() == [2]
        assert await node.column("select name from agent where id = 2") == ["gamma"]

    live(work)


def test_agents_that_come_and_go_with_a_file_of_others_are_told_of(live: Callable[..., None]) -> None:
    """Of what authd does it tells itself. Those of the first file are not news."""

    async def work(node: Node) -> None:
        lines = [f"{number:03} agent{number} any {'k' * 64}\n" for number in range(1, 41)]
        node.keys.write_text("".join(lines[:36]))
        await node.look()
        assert (node.said, [event for event in node.told if event.kind == "registration"]) == ([], [])
        kept = node.keys.parent.parent / REMOVED_KEYS
        kept.parent.mkdir(parents=True, exist_ok=True)
        node.keys.write_text("".join(lines[12:38]))
        await node.look()
        told = [(event.what, event.agent, event.name) for event in node.told if isinstance(event, RegistrationEvent)]
        assert told == [("removed", f"{n:03}", f"agent{n}") for n in range(1, 13)] + [
            ("added", f"{n:03}", f"agent{n}") for n in (37, 38)
        ]
        [said] = node.said
        assert said.startswith(
            "WARNING Another program has taken 12 keys out of etc/client.keys, their agents are deleted: "
        )
        assert "001 agent1, " in said
        assert said.endswith(
            f"010 agent10 and 2 more; if that was not meant (an editor that has saved an old copy), "
            f"their lines are in {kept}."
        )
        assert kept.read_text().splitlines(keepends=True)[1:] == lines[:12]
        assert kept.stat().st_mode & 0o777 == 0o600
        node.said.clear()
        node.keys.write_text("".join([*lines[13:38], lines[12].replace(" agent", " !agent")]))
        await node.look()
        assert node.said == ["INFO Agents that etc/client.keys calls removed are deleted: 013 agent13."]
        assert len(kept.read_text().splitlines()) == 13, "whoever marks a line has meant it"

    live(work)


@pytest.mark.parametrize("on_worker", [False, True])
def test_key_that_another_program_changes_is_that_of_the_row_on_a_master(
    live: Callable[..., None], on_worker: bool
) -> None:
    """A candidate that takes over writes the keys of the rows into its file. A worker has rows without a key that stay
    as they are."""

    async def work(node: Node) -> None:
        node.keys.write_text("001 alpha any k1\n002 beta any k2\n")
        await node.look()
        now = int(time.time())
        await node.engine.write(
            lambda session: session.db.execute("update agent set date_add = ? where id = 2", (now,))
        )
        node.keys.write_text("001 alpha 10.0.0.1 other\n002 beta any of-before\n")
        await node.look()
        found = await node.column("select internal_key || register_ip from agent where id > 0 order by id")
        assert found == (["k1any"] if on_worker else ["other10.0.0.1"]) + ["k2any"], "authd has just given 2 its key"
        await node.engine.write(lambda session: session.db.execute("update agent set date_add = 1 where id = 2"))
        await node.look()
        found = await node.column("select internal_key from agent where id = 2")
        assert found == (["k2"] if on_worker else ["of-before"]), "unless the key of the file stays"

    live(work, on_worker=on_worker)


def test_agent_that_is_deleted_while_its_key_is_read_stays_away(
    live: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """authd writes the file, then deletes the row: the follower, which has read the file before, must not make it
    again."""

    async def work(node: Node) -> None:
        node.keys.write_text("001 a any k\n002 b any k\n")
        await node.look()
        loop = asyncio.get_running_loop()

        def read_while_it_is_deleted() -> Any:
            found = keys_in_use(str(node.keys.parents[1]))
            node.keys.with_name("new").write_text("001 a any k\n")
            node.keys.with_name("new").replace(node.keys)
            delete = node.engine.write(lambda session: agents.delete_agent(session, 2))
            asyncio.run_coroutine_threadsafe(delete, loop).result()
            return found

        monkeypatch.setattr(node.follower.keys, "_read_keys", read_while_it_is_deleted)
        node.keys.touch()
        await node.look()
        assert await node.agents() == [1]
        monkeypatch.setattr(node.follower.keys, "_read_keys", lambda: keys_in_use(str(node.keys.parents[1])))
        await node.look()
        assert await node.agents() == [1]

    live(work)


@pytest.mark.parametrize("on_worker", [True, False])
def test_file_that_changes_whenever_it_is_read_is_followed(
    live: Callable[..., None], monkeypatch: pytest.MonkeyPatch, on_worker: bool
) -> None:
    """Registrations without a pause: each read of a large file ends with an old one."""

    async def work(node: Node) -> None:
        count = 0

        def read_while_one_is_added() -> Any:
            nonlocal count
            count += 1
            found = keys_in_use(str(node.keys.parents[1]))
            lines = "".join(f"{number:03} a{number} any k\n" for number in range(1, count + 2))
            node.keys.with_name("new").write_text(lines)
            node.keys.with_name("new").replace(node.keys)
            return found

        node.keys.write_text("001 a1 any k\n")
        monkeypatch.setattr(node.follower.keys, "_read_keys", read_while_one_is_added)
        await node.look()
        await node.look()
        assert 2 in await node.agents()

    live(work, on_worker=on_worker)


def test_key_of_others_that_authd_has_written_again_is_followed(
    live: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registrations without a pause: authd reads what others wrote, and writes the file, before the follower looks."""

    async def work(node: Node) -> None:
        file = KeyFile(str(node.keys.parents[1]))
        reads = 0

        def counted() -> Any:
            nonlocal reads
            reads += 1
            return keys_in_use(str(node.keys.parents[1]))

        monkeypatch.setattr(node.follower.keys, "_read_keys", counted)
        node.follower.keys._authd = lambda: file.marks

        def register(number: int) -> None:
            file.refresh()
            file.table.add(Key(f"{number:03}", f"a{number}", "any", "k"))
            file.save()

        node.keys.write_text("001 a1 any k\n")
        await node.look()
        register(3)
        await node.look()
        register(4)
        file.forget()  # as after a batch that no candidate has confirmed
        register(7)
        await node.look()
        assert reads == 1, "what authd writes it has written to the database, too"
        with node.keys.open("a") as others:
            others.write("002 a2 any k\n")
        register(5)
        await node.look()
        assert 2 in await node.agents()
        register(6)
        await node.look()
        assert reads == 2

    live(work)


def test_agents_without_a_key_that_was_never_seen_are_kept(live: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        await node.engine.write(lambda session: agents.insert_agent(session, agents.NewAgentRow(9, "own", 1)))
        node.keys.write_text("001 alpha any k1\n")
        await node.look()
        node.keys.write_text("")
        await node.look()
        assert await node.agents() == [9]

    live(work)


def test_key_that_went_while_the_process_was_dead_deletes_its_agent(live: Callable[..., None]) -> None:
    async def before(node: Node) -> None:
        node.keys.write_text("001 alpha any k1\n002 beta any k2\n")
        await node.look()
        node.keys.write_text("001 alpha any k1\n")

    async def after(node: Node) -> None:
        await node.look()
        assert await node.agents() == [1]

    live(before)
    live(after, is_first_life=False)


def test_file_that_lost_all_keys_deletes_nothing(live: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        node.keys.write_text("".join(f"{n:03d} agent{n} any k{n}\n" for n in range(1, 51)))
        await node.look()
        node.keys.write_text("")
        await node.look()
        await node.look()
        assert len(await node.agents()) == 50
        assert len(node.said) == 1
        node.keys.unlink()
        await node.look()
        assert len(await node.agents()) == 50

    live(work)


def test_agent_named_by_groups_only_waits_for_its_key_and_goes_without(live: Callable[..., None]) -> None:
    def make(added: int) -> Callable[[Any], None]:
        def work(session: Any) -> None:
            session.db.execute(
                "insert into agent (id, name, ip, register_ip, date_add) values (5, 'e', '0.0.0.0', '0.0.0.0', ?)",
                (added,),
            )

        return work

    async def work(node: Node) -> None:
        node.keys.write_text("001 alpha any k1\n")
        await node.engine.write(lambda session: make(session.now())(session))
        await node.look()
        assert await node.agents() == [1, 5]

        def age(session: Any) -> None:
            session.db.execute("update agent set date_add = date_add - 1000 where id = 5")

        await node.engine.write(age)
        await node.look()
        assert await node.agents() == [1]

    live(work, on_worker=True)


def test_trouble_is_logged_once_and_ends_when_it_is_over(live: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        node.keys.write_text("no key at all\n")
        await node.look()
        await node.look()
        assert len(node.said) == 1
        node.keys.write_text("001 alpha any k1\n")
        await node.look()
        assert await node.agents() == [1]

    live(work)


def test_trouble_that_comes_back_later_is_logged_again(
    live: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(node: Node) -> None:
        node.keys.write_text("no key at all\n")
        await node.look()
        node.keys.write_text("001 alpha any k1\n")
        await node.look()
        monkeypatch.setattr(follow, "FORGET_S", 0.0)  # as if so much later
        node.keys.write_text("no key at all\n")
        await node.look()
        assert len(node.said) == 2

    live(work)


def test_agents_whose_keys_were_lost_at_once_are_kept_until_the_loss_is_accepted(
    live: Callable[..., None], tmp_path: Path
) -> None:
    async def work(node: Node) -> None:
        node.keys.write_text("".join(f"{n:03} agent{n} any {'k' * 64}\n" for n in range(1, 11)))
        await node.look()
        node.keys.write_text(f"001 agent1 any {'k' * 64}\n")
        for _ in range(3):
            await node.look()
        assert await node.agents() == list(range(1, 11))
        [said] = node.said
        assert "9 of 10" in said
        (tmp_path / STATE).mkdir(parents=True)
        note_accepted(str(tmp_path / STATE), KeyContent(node.keys.read_bytes()))
        await node.look()
        await node.look()
        assert await node.agents() == [1]

    live(work)
