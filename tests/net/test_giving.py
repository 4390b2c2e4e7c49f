"""Net sends a small long string by itself (ipc GiveString): the frames of wire.md 4.4. Sync hears only of the end."""

from collections.abc import Callable

import pytest

from clusterd.messages.links import Answered, GiveString, LinkDown, Unanswered
from tests.net.harness import NetNode, Talker, wait_until

Master = Callable[..., NetNode]
CONTENT = b'{"answer": "with a space"}'


def begun(node: NetNode, client: Talker, kind: str, content: bytes = CONTENT, word: str = "") -> int:
    """Begins to send the string; returns the link."""
    assert node.sync is not None
    link = node.sync.link(kind=kind).link
    node.sync.send(GiveString(link, 7, "dapi_res", word, content))
    request = client.read()
    assert (request.command, request.payload) == (b"new_str", str(len(content)).encode())
    client.respond(request, "ok", "3148784548")
    return link


@pytest.mark.parametrize("kind", ["local", "worker"])
def test_string_is_announced_sent_and_named(master: Master, kind: str) -> None:
    node = master()
    assert node.sync is not None
    client = node.local() if kind == "local" else node.join("w1")
    word = "" if kind == "local" else "4711"
    begun(node, client, kind, word=word)
    request = client.read()
    assert (request.command, request.payload) == (b"str_upd", b"3148784548 " + CONTENT)
    client.respond(request, "ok", "String updated")
    request = client.read()
    assert (request.command, request.payload) == (b"dapi_res", f"{word} 3148784548".strip().encode())
    assert node.sync.quiet(Answered)
    client.respond(request, "ok", "Distributed api response received")
    assert node.sync.expect(Answered) == Answered(7, "ok", b"Distributed api response received")


def test_empty_string_has_no_second_step(master: Master) -> None:
    node = master()
    client = node.local()
    begun(node, client, "local", b"")
    assert client.read().command == b"dapi_res"


@pytest.mark.parametrize(
    ("command", "payload"), [("err", "no room"), ("ok", "two words"), ("ok", ""), ("ok", "x" * 5000), ("ok-m", "1")]
)
def test_refused_string_is_reported_and_not_sent(master: Master, command: str, payload: str) -> None:
    node = master()
    client = node.local()
    assert node.sync is not None
    node.sync.send(GiveString(node.sync.link(kind="local").link, 7, "dapi_res", "", CONTENT))
    client.respond(client.read(), command, payload)
    ended = node.sync.expect(Unanswered)
    assert (ended.id, ended.why) == (7, "string")
    assert client.ask("echo", "x").payload == b"x"


def test_refusal_of_the_content_is_reported(master: Master) -> None:
    node = master()
    client = node.local()
    begun(node, client, "local")
    client.respond(client.read(), "err", "it is gone")
    assert node.sync is not None
    ended = node.sync.expect(Unanswered)
    assert (ended.id, ended.why) == (7, "string")
    assert "it is gone" in ended.text


def test_refusal_of_the_command_is_an_answer(master: Master) -> None:
    node = master()
    client = node.local()
    begun(node, client, "local")
    client.respond(client.read(), "ok", "String updated")
    client.respond(client.read(), "err", "unknown string")
    assert node.sync is not None
    assert node.sync.expect(Answered) == Answered(7, "err", b"unknown string")


def test_large_response_in_between_gives_its_room_back(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    node.sync.send(GiveString(node.sync.link().link, 7, "dapi_res", "1", CONTENT))
    free = node.counter("slabs_free")
    client.respond(client.read(), "ok", "1" * 200_000)
    assert node.sync.expect(Unanswered).why == "string"
    node.sync.send(GiveString(1 << 30, 8, "dapi_res", "1", CONTENT))
    assert node.sync.expect(Unanswered) == Unanswered(8, "closed")
    wait_until(lambda: node.counter("slabs_free") == free, "its room is free")


def test_absent_or_silent_peer_ends_it(master: Master) -> None:
    node = master()
    client = node.local()
    begun(node, client, "local")
    assert node.sync is not None
    client.close()
    assert node.sync.expect(Unanswered) == Unanswered(7, "closed")
    node.sync.expect(LinkDown)
    silent = node.local()
    link = node.sync.link(kind="local").link
    node.sync.send(GiveString(link, 8, "dapi_res", "", CONTENT, timeout_s=0.1))
    assert silent.read().command == b"new_str"
    assert node.sync.expect(Unanswered) == Unanswered(8, "timeout")
    told = silent.read()
    assert (told.command, told.payload) == (b"err_str", str(len(CONTENT)).encode())
    silent.respond(told, "ok", "None")
    assert silent.ask("echo", "x").payload == b"x"


def test_nothing_goes_on_for_a_sync_that_died(master: Master) -> None:
    node = master()
    client = node.local()
    begun(node, client, "local")
    request = client.read()
    node.kill_sync()
    node.logged("The sync process is gone")
    client.respond(request, "ok", "String updated")
    assert client.ask("echo", "x").payload == b"x"
    node.start_sync().hello()
    assert client.ask("echo", "x").payload == b"x"
    assert not client._messages, "no name for the string of a dead process"
