"""A request that changes groups of agents is answered when a candidate has the change, as a registration is."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.replica import Mark, Marked
from clusterd.settings import HaSettings
from clusterd.sync.requests import this_node
from tests.sync.framework_node import DENIED, DONE, WORKER, FakePort, Node, asked, code_of, text_of
from tests.sync.kept_tree import until

ASSIGN = "wazuh.agent:assign_agents_to_group"
GROUPS = (
    "assign_agents_to_group",
    "create_group",
    "delete_groups",
    "remove_agent_from_group",
    "remove_agent_from_groups",
    "remove_agents_from_group",
)


class Store:
    """The node's store, as it is asked. `answer`: what it says, after `may_answer`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: Marked | Exception = Marked(is_kept=True)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked: list[object] = []
        store = self

        class Asked:
            def __init__(self, root: str) -> None:
                pass

            async def ask(self, request: object, timeout_s: float) -> bytes:
                store.asked.append(request)
                await store.may_answer.wait()
                if isinstance(store.answer, Exception):
                    raise store.answer
                return msgspec.msgpack.encode(store.answer)

        monkeypatch.setattr(this_node, "ReplicaStore", Asked)


def master(root: Path, *answers: bytes, replica: bool = True, role: str = "master") -> Node:
    node = Node(root, FakePort(*answers), role)
    own = msgspec.structs.replace(node.settings.clusterd, ha=HaSettings(replica=replica))
    node.context.settings = msgspec.structs.replace(node.settings, clusterd=own, serves_store=True)
    return node


def test_groups_are_answered_when_a_candidate_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        store, node = Store(monkeypatch), master(tmp_path)
        store.may_answer.clear()
        asking = asyncio.create_task(node.run(asked(ASSIGN), "worker"))
        await until(lambda: bool(store.asked))
        assert (store.asked, asking.done()) == ([Mark()], False)
        store.may_answer.set()
        assert await asking == json.loads(DONE)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Marked(why="no candidate is connected"), ""),
        (Marked(why="etcd cannot be asked", is_refused=True), "etcd cannot be asked"),
        (ClusterError(1000, "this node's store did not answer within 25 s"), "did not answer"),
    ],
    ids=["asynchronous", "refused", "silent"],
)
def test_groups_that_no_candidate_confirms_are_answered_as_a_registration_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, why: str
) -> None:
    async def story() -> None:
        store, node = Store(monkeypatch), master(tmp_path)
        store.answer = answer
        found = await node.run(asked(ASSIGN), "client")
        if not why:
            assert found == json.loads(DONE)
        else:
            assert code_of(found) == 1000
            assert text_of(found).startswith("it is done on this node, but no candidate has confirmed it, ask again")
            assert why in text_of(found)

    asyncio.run(story())


@pytest.mark.parametrize("name", GROUPS)
def test_all_functions_that_change_groups_wait_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async def story() -> None:
        store, node = Store(monkeypatch), master(tmp_path)
        await node.run(asked(f"wazuh.agent:{name}"), "client")
        assert store.asked == [Mark()]

    asyncio.run(story())


def test_nothing_else_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        store = Store(monkeypatch)
        for name in ("wazuh.agent:get_full_overview", "wazuh.agent:add_agent", "wazuh.rule:upload_rule_file"):
            assert await master(tmp_path).run(asked(name), "client") == json.loads(DONE)
        assert await master(tmp_path, replica=False).run(asked(ASSIGN), "client") == json.loads(DONE)
        assert await master(tmp_path, DENIED).run(asked(ASSIGN), "client") == json.loads(DENIED)
        await master(tmp_path, role=WORKER).run(asked(ASSIGN), "client")
        assert store.asked == []

    asyncio.run(story())
