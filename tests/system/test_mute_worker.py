"""A worker that accepts every request and never answers: the others' answers arrive in time, and it is a failed
item."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import KEY, rigs
from tests.net.harness import Talker, wait_until
from tests.system.dapi_client import NAMES, SYNC_STATUS, client_of, failed_items, request, result
from tools.rig.nodes import Rig
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow

QUICK = {"intervals": {"communication": {"timeout_cluster_request": 3}}, "clusterd": {"request_timeout": 2}}
ANSWERED_S = 60
"""It takes 3 to 8 s; it once took 200."""


@contextlib.contextmanager
def mute(rig: Rig, *answered: bytes) -> Iterator[None]:
    """A worker of that kind, which answers ok to these commands and nothing to all others."""

    def joined() -> Talker | None:
        """The worker of the test before may not be gone yet."""
        talker = Talker(socket.create_connection((HOST, rig.master.port), timeout=60), KEY)
        if talker.ask("hello", "mute rig worker 4.14.1", 60).command == b"ok":
            return talker
        talker.close()
        return None

    talker: Talker = wait_until(joined, "the name is free", 60)

    def live() -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                asked = talker.read(300)
                if asked.command in answered:
                    talker.respond(asked, "ok", asked.payload if asked.command == b"echo" else b"Added request")

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield
    finally:
        talker.sock.shutdown(socket.SHUT_RDWR)
        thread.join(60)
        talker.close()


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigs() as make:
        rig = make(1, overrides=QUICK)
        rig.start()
        rig.wait_equal(60)
        yield rig


@pytest.mark.parametrize(
    ("answered", "fields"),
    [
        ((), {}),
        ((b"dapi",), {}),
        ((b"dapi", b"echo"), {}),
        ((b"dapi",), {"wait_for_complete": True}),
    ],
    ids=["says nothing", "takes it", "takes it and is there", "takes it, and it may take long"],
)
def test_a_mute_worker_keeps_no_broadcast_back(rig: Rig, answered: tuple[bytes, ...], fields: dict[str, Any]) -> None:
    with mute(rig, *answered), client_of(rig.master) as client:
        wanted = {"node_list": "*", "master_md5": {}}
        nodes = [*NAMES[:2], "mute"]
        asked = request(
            *SYNC_STATUS, wanted, request_type="distributed_master", broadcasting=True, nodes=nodes, **fields
        )
        assert client.ask("dapi", asked).command == b"ok"
        answer = json.loads(client.answer_of("dapi_res", ANSWERED_S))
        assert [item["name"] for item in result(answer)["affected_items"]] == NAMES[:2]
        assert list(failed_items(answer).values()) == [["mute"]]
