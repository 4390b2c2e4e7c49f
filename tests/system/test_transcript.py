"""The recorded session of two stock nodes (tests/vectors/transcript.jsonl): the test plays one side against a clusterd
node.

Joining, integrity, agent-info, agent-groups, strings, files and keepalives. The test sends what the recorded side sent,
with the rig's names and the ids that the node gave out. The node must send what the other recorded side sent, in the
same order.
"""

import base64
import contextlib
import hashlib
import json
import re
import shutil
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY, MakeRig
from tests.wire.vectors import payload_of, transcript
from tools.rig.nodes import Rig
from tools.rig.peer import wait_until
from tools.rig.peer_files import FILE_SEP, METADATA, PATH_SEP
from tools.rig.peer_frames import FrameReader, PeerMessage, build_frames
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow

Line = dict[str, Any]
LINES: dict[int, Line] = {line["seq"]: line for line in transcript() if "command" in line}
JOIN = range(1, 3)
GROUPS = range(3, 11)
ALL_GROUPS = range(133, 141)
FIRST_SYNC = range(11, 33)
AGENT_INFO = range(33, 43)
NO_DIFFERENCE = range(51, 65)
SECOND_SYNC = range(75, 97)
NO_DIFFERENCE_AGAIN = range(107, 121)
KEEPALIVE = range(401, 403)
QUERIES = [range(343, 347), range(371, 379)]
UNKNOWN_DAEMON = range(427, 431)
"""The other questions of the recording name a function of no API, and an agent that is registered anew each time."""

OLD_KEYS = b"000 another any 00\n"
OLD_KEYS_HASHES = (b"bdf08a216d1cfae1017863075f96dd18", hashlib.blake2b(OLD_KEYS).hexdigest()[:32].encode())
"""Parts of the worker's client.keys before the first sync: the recorded beginning, whose content is unknown, and the
rig's."""
AUDIT_KEYS = b"audit-wazuh-w:write\naudit-wazuh-r:read\n"
UUID4 = re.compile(rb"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
STRING_ID = re.compile(rb"^[0-9]+$")
PACKAGE = re.compile(rb"-[0-9]+\.[0-9]+-[0-9a-f]{32}\.zip")
SHARED = re.compile(rb"queue/cluster/clusterd-[0-7]\.zip")
"""clusterd's packages have one path for all workers (wire.md 13.1.6)."""
SPENT = re.compile(rb'"time_spent": [0-9.e-]+')


def named(recorded: bytes) -> bytes:
    """Replaces the names of the recording by those of the rig."""
    return (
        recorded.replace(b"specm", b"rig_manager_1").replace(b"spec1", b"rig_manager_2").replace(b" wazuh ", b" rig ")
    )


def entries_of(package: bytes) -> dict[str, Any]:
    """Returns path to content of a package; the metadata without times, which cannot be repeated."""
    out: dict[str, Any] = {}
    for entry in package.split(FILE_SEP):
        path, _, packed = entry.partition(PATH_SEP)
        content = zlib.decompress(packed)
        out[path.decode()] = metadata_of(content) if path == METADATA.encode() else content
    return out


def metadata_of(content: bytes) -> Any:
    metadata = without_times(json.loads(content))
    keys = metadata.get("etc/client.keys", {"hash": ""})
    if keys["hash"].encode()[:32] in OLD_KEYS_HASHES:
        keys["hash"] = "old"
    return metadata


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key != "mod_time"}
    return value


def shape(value: Any) -> Any:
    """Returns the members of an object and those of its members, in their order."""
    return {name: shape(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def unnamed(payload: bytes) -> bytes:
    """Removes the names of packages, which differ each time."""
    return PACKAGE.sub(b"", SHARED.sub(b"queue/cluster/rig_manager_2/rig_manager_2", payload))


def meaning(command: str, payload: bytes) -> Any:
    """Returns what a message says, without what differs each time."""
    if command == "file_upd":
        path, _, package = payload.partition(b" ")
        return unnamed(path), entries_of(package)
    if command == "file_end":
        return unnamed(payload.partition(b" ")[0]), len(payload.partition(b" ")[2])
    if b'"last_check_integrity"' in payload:  # times and counts of everything so far
        return repr(shape(json.loads(payload)))
    return SPENT.sub(b"", unnamed(payload))


def content_of(recorded: Line) -> dict[str, bytes]:
    """Returns the files of a recorded package."""
    return {
        entry["path"]: entry["text"].encode() if "text" in entry else base64.b64decode(entry["content_b64"])
        for entry in recorded["decoded_package"]["entries"]
        if entry["path"] != METADATA
    }


def put(root: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


class Player:
    """One side of the recording. `side`: the direction of the lines it sends, `w>m` or `m>w`."""

    def __init__(self, sock: socket.socket, side: str) -> None:
        self._sock = sock
        self._side = side
        self._reader = FrameReader(KEY)
        self._inbox: list[PeerMessage] = []
        self._counter = 1000
        self._counters: dict[int, int] = {}
        self._actual: dict[bytes, bytes] = {}
        self._sent_package: hashlib._Hash | None = None
        self.keepalives = 0

    def play(self, lines: range) -> None:
        """Plays these lines. Fails at the first message that is not the recorded one."""
        for number in lines:
            line = LINES[number]
            if line["dir"] == self._side:
                self._send(line)
            else:
                self._expect(line)

    def play_check(self, lines: range) -> None:
        """Plays a check by the worker, which asks until it is permitted: the master may still be busy with earlier
        work."""
        request = LINES[lines[0]]

        def is_permitted() -> bool:
            self._send(request)
            return self._next_message().payload == b"True"

        wait_until(is_permitted, 60, "the permission to check")
        self.play(lines[2:])

    def _send(self, line: Line) -> None:
        payload = self._translated(payload_of(line))
        if line["command"] != "str_upd":  # whose length was announced
            payload = named(payload)
        if line["role"] == "request":
            self._counter += 1
            counter = self._counters[line["seq"]] = self._counter
        else:
            counter = self._counters[line["reply_to"]]
        self._write(line["command_field"].rstrip("-").removesuffix(" "), counter, payload)

    def _expect(self, line: Line) -> None:
        message = self._next_message()
        assert message.command.decode() == line["command"], f"line {line['seq']}: {message}"
        if line["role"] == "request":
            self._counters[line["seq"]] = message.counter
        else:
            assert message.counter == self._counters[line["reply_to"]], f"line {line['seq']}: {message}"
        recorded = payload_of(line)
        for pattern in (UUID4, STRING_ID):
            if pattern.match(recorded) and line["role"] == "response" and recorded not in self._actual:
                assert pattern.match(message.payload), f"line {line['seq']}: {message}"
                self._actual[recorded] = message.payload
        expected = named(self._translated(recorded))
        assert meaning(line["command"], message.payload) == meaning(line["command"], expected), f"line {line['seq']}"
        if line["command"] == "file_upd":
            self._sent_package = hashlib.sha256(message.payload.partition(b" ")[2])
        if line["command"] == "file_end":
            assert self._sent_package
            assert message.payload.partition(b" ")[2] == self._sent_package.digest()

    def _translated(self, recorded: bytes) -> bytes:
        """Replaces the recorded ids by those that the node gave out."""
        for old, new in self._actual.items():
            recorded = recorded.replace(old, new)
        return recorded

    def _next_message(self) -> PeerMessage:
        """Returns the next message that the recording has. Skips those that only clusterd sends (`caps`, which a stock
        master refuses) or that depend on its clock (the worker's keepalives)."""
        while True:
            while not self._inbox:
                data = self._sock.recv(65536)
                assert data, "our node closed the connection"
                self._inbox += self._reader.feed(data)
            message = self._inbox.pop(0)
            if message.command == b"caps":
                self._write("err", message.counter, b'"Error 3020 - unknown command"')
            elif message.command == b"echo-c":
                self._expect_keepalive(message)
            else:
                return message

    def _expect_keepalive(self, message: PeerMessage) -> None:
        request, response = (LINES[number] for number in KEEPALIVE)
        assert message.payload == payload_of(request)
        self._write(response["command_field"].rstrip("-").removesuffix(" "), message.counter, payload_of(response))
        self.keepalives += 1

    def _write(self, command: str, counter: int, payload: bytes) -> None:
        for frame in build_frames(command.encode(), counter, payload, KEY):
            self._sock.sendall(frame)


@pytest.fixture
def rig(make_rig: MakeRig) -> Iterator[Rig]:
    """A master and a worker with the files of the recorded nodes, not started."""
    made = make_rig(1, overrides={"intervals": {"worker": {"keep_alive": 1, "sync_agent_info": 1000}}})
    for node in made.nodes:
        for directory in ("etc/shared", "etc/rules", "etc/decoders", "etc/lists", "var/multigroups"):
            shutil.rmtree(node.root / directory)
            (node.root / directory).mkdir()
        put(node.root, {"etc/lists/audit-keys": AUDIT_KEYS})
        for group in ("default", "group1"):
            (node.root / "etc/shared" / group).mkdir()
    put(made.master.root, content_of(LINES[27]))
    put(
        made.workers[0].root,
        {
            "etc/client.keys": OLD_KEYS,
            "etc/shared/oldgroup/agent.conf": b"old\n",
            "etc/rules/stale_rules.xml": b'<group name="stale,">\n</group>\n',
        },
    )
    return made


def test_our_master_answers_the_recorded_worker(rig: Rig) -> None:
    rig.start("master")
    root = rig.master.root
    with socket.create_connection((HOST, rig.master.port), 20) as sock:
        player = Player(sock, "w>m")
        player.play(JOIN)
        player.play_check(FIRST_SYNC)
        player.play(AGENT_INFO)
        player.play_check(NO_DIFFERENCE)
        before = digest_of(rig)
        put(root, content_of(LINES[91]))
        (root / "etc/lists/my list").unlink()
        wait_until(lambda: digest_of(rig) != before, 60, "the changes are scanned")
        player.play_check(SECOND_SYNC)
        player.play_check(NO_DIFFERENCE_AGAIN)
        player.play(KEEPALIVE)
        for questions in QUERIES:
            player.play(questions)
        player.play(UNKNOWN_DAEMON)


def test_our_worker_answers_the_recorded_master(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, rig.master.port)))
        listener.settimeout(60)
        rig.start("rig_manager_2")
        sock, _ = listener.accept()
        stack.enter_context(sock)
        sock.settimeout(60)
        player = Player(sock, "m>w")
        player.play(JOIN)
        player.play(GROUPS)
        player.play(FIRST_SYNC)
        player.play(NO_DIFFERENCE)
        player.play(SECOND_SYNC)
        player.play(NO_DIFFERENCE_AGAIN)
        player.play(ALL_GROUPS)
        wait_until(lambda: player.keepalives > 0, 0, "a keepalive came while the rest was played")
        found = {
            path: (rig.workers[0].root / path).read_bytes()
            for path in (content_of(LINES[27]) | content_of(LINES[91])).keys() - {"etc/lists/my list"}
        }
    assert found == {path: (content_of(LINES[27]) | content_of(LINES[91]))[path] for path in found}


def digest_of(rig: Rig) -> str:
    digest: str = rig.status("master")["rig_manager_1"]["manifest"]["root_digest"]
    return digest
