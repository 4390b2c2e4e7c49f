"""The recorded session of two stock nodes, through two of clusterd's connections (tests/vectors/transcript.jsonl)."""

from typing import Any

from clusterd.wire.connection import Connection
from clusterd.wire.events import RequestReceived, ResponseReceived, SealedRequest
from clusterd.wire.frame import command_field, parse_field
from clusterd.wire.seal import Sealer
from clusterd.wire.token import sealed_length
from tests.wire.ends import opened_body
from tests.wire.vectors import payload_of, transcript

SEALER = Sealer(b"c98b62a9b6169ac5f67dae55ae4a9088")
LINES: list[dict[str, Any]] = [line for line in transcript() if "command" in line]


def argument_of(line: dict[str, Any]) -> str:
    """Returns the command as its sender wrote it, with the trailing space where the field has one."""
    command: str = line["command"]
    return next(word for word in (command, command + " ") if command_field(word).decode() == line["command_field"])


def test_recorded_fields_and_lengths_are_ours() -> None:
    for line in LINES:
        assert parse_field(line["command_field"].encode()) == (line["command"], False)
        assert argument_of(line).rstrip() == line["command"]
        assert sealed_length(line["plain_len"]) == line["body_len"]
        if "text" in line or "b64" in line:
            assert len(payload_of(line)) == line["plain_len"]


def test_recorded_session_passes_between_two_connections() -> None:
    """Each side sends its recorded requests with the recorded counters; every answer finds its request."""
    ends = {
        "w>m": (Connection("worker", SEALER, counter_start=0), Connection("master", SEALER, counter_start=2**31)),
    }
    ends["m>w"] = ends["w>m"][::-1]
    own_counter: dict[int, int] = {}
    for line in LINES:
        sender, receiver = ends[line["dir"]]
        payload = payload_of(line) if "text" in line or "b64" in line else bytes(line["plain_len"])
        if line["role"] == "request":
            counter, frames = sender.request(argument_of(line), payload, line["t"], 20)
            own_counter[line["seq"]] = counter
            (event,) = receiver.receive(b"".join(frames))
            if isinstance(event, SealedRequest):
                event = RequestReceived(event.counter, event.command, opened_body(receiver, event.bodies))
            assert event == RequestReceived(counter, line["command"], payload)
        else:
            counter = own_counter[line["reply_to"]]
            (event,) = receiver.receive(b"".join(sender.respond(counter, argument_of(line), payload)))
            assert event == ResponseReceived(counter, line["command"], payload)
    assert ends["w>m"][0].frames_out + ends["m>w"][0].frames_out == len(LINES)
    assert ends["w>m"][1].frames_in + ends["m>w"][1].frames_in == len(LINES)
