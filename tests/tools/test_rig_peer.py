"""The rig's peers against the recordings: if these tests fail, no test that uses the peers can be trusted."""

import base64
import hashlib
import json
import os
import socket
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.rig import peer_files
from tools.rig.peer import (
    CannotDecrypt,
    FrameReader,
    LocalClient,
    PeerError,
    RawPeer,
    ScriptedPeer,
    StockMaster,
    StockWorker,
    build_frames,
    command_field,
    divided_without_end,
    error_of,
    garbage,
    half_header,
    huge_length,
    seal,
    wait_until,
)

VECTORS = Path(__file__).parent.parent / "vectors"
FRAMES = json.loads((VECTORS / "frames.json").read_text())
PACKAGE = json.loads((VECTORS / "package.json").read_text())
TRANSCRIPT = [json.loads(line) for line in (VECTORS / "transcript.jsonl").read_text().splitlines()]
KEY = "c98b62a9b6169ac5f67dae55ae4a9088"


def plaintext_of(case: dict[str, Any]) -> bytes:
    if "plaintext_b64" in case:
        return base64.b64decode(str(case["plaintext_b64"]))
    period = bytes((31 * i + 7) % 256 for i in range(256))
    size = int(case["plaintext_len"])
    return (period * (size // 256 + 1))[:size]


@pytest.mark.parametrize("case", FRAMES["frames"], ids=lambda case: case["name"])
def test_frames_have_the_recorded_bytes_and_read_back(case: dict[str, Any]) -> None:
    plaintext = plaintext_of(case)
    token = None
    if case["key"]:
        token = seal(case["key"], plaintext, case["fernet"]["timestamp"], bytes.fromhex(case["fernet"]["iv_hex"]))
    frames = build_frames(case["command_argument"].encode(), case["counter"], plaintext, case["key"], token)
    assert len(frames) == len(case["frames"])
    for frame, recorded in zip(frames, case["frames"], strict=True):
        assert frame[:20].hex() == recorded["header_hex"]
        if "frame_b64" in recorded:
            assert frame == base64.b64decode(recorded["frame_b64"])
        else:
            assert hashlib.sha256(frame).hexdigest() == recorded["frame_sha256"]
    reader = FrameReader(case["key"])
    (message,) = [message for frame in frames for message in reader.feed(frame)]
    assert (message.counter, message.command.decode()) == (case["counter"], case["command_parsed"])
    assert message.payload == plaintext


@pytest.mark.parametrize("size", [1, 7, 19, 20, 21, 119, 1000])
def test_any_cut_of_the_stream_gives_the_same_messages(size: int) -> None:
    case = FRAMES["partial_reads"]
    stream = base64.b64decode(case["stream_b64"])
    reader = FrameReader(case["key"])
    got = [message for start in range(0, len(stream), size) for message in reader.feed(stream[start : start + size])]
    assert [(m.command.decode(), m.counter, m.payload.decode()) for m in got] == [
        (e["command"], e["counter"], e["plaintext"]) for e in case["expected"]
    ]


def test_divided_message_may_be_interleaved_with_whole_ones() -> None:
    case = FRAMES["interleaved"]
    reader = FrameReader(case["key"])
    got = [message for frame in case["frames_b64"] for message in reader.feed(base64.b64decode(frame))]
    assert [(m.command.decode(), m.counter, m.payload.decode()) for m in got] == [
        (e["command"], e["counter"], e["plaintext"]) for e in case["expected_dispatch_order"]
    ]


@pytest.mark.parametrize("case", FRAMES["command_field_parsing"], ids=lambda case: case["field_hex"])
def test_command_field_is_parsed_like_stock(case: dict[str, Any]) -> None:
    field = bytes.fromhex(case["field_hex"])
    reader = FrameReader(None)
    frame = (1).to_bytes(4, "big") + (0).to_bytes(4, "big") + field
    got = reader.feed(frame)
    if case["divided"]:
        assert not got
        got = reader.feed(frame[:19] + b"-")
    assert [message.command.decode() for message in got] == [case["command"]]


def test_wrong_key_and_long_command_are_refused() -> None:
    wrong = next(case for case in FRAMES["negative"] if case["name"] == "wrong_key")
    with pytest.raises(CannotDecrypt):
        FrameReader(wrong["key"]).feed(base64.b64decode(wrong["frame_b64"]))
    with pytest.raises(ValueError):
        command_field(b"twelve_bytes", False, False)


def test_token_sizes_are_the_recorded_ones() -> None:
    for case in FRAMES["token_sizes"]:
        assert len(seal(KEY, bytes(case["plaintext_len"]))) == case["token_len"]


def grow(root: Path) -> None:
    for entry in PACKAGE["tree"]:
        path = root / entry["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(entry["content_b64"]))
        os.utime(path, (entry["mtime"], entry["mtime"]))


def test_scan_gives_the_recorded_metadata(tmp_path: Path) -> None:
    grow(tmp_path)
    assert peer_files.scan(tmp_path) == PACKAGE["tree_metadata"]


@pytest.mark.parametrize("case", PACKAGE["packages"], ids=lambda case: case["name"])
def test_recorded_package_unpacks_to_its_entries(case: dict[str, Any], tmp_path: Path) -> None:
    package = tmp_path / "p.zip"
    package.write_bytes(base64.b64decode(case["package_b64"]))
    assert peer_files.unpack(package, tmp_path / "into") == case["metadata_after"]
    for entry in case["entries"]:
        assert (tmp_path / "into" / entry["path"]).read_bytes() == base64.b64decode(entry["content_b64"])


@pytest.mark.parametrize(
    "case", [case for case in PACKAGE["packages"] if case["limit"] is None], ids=lambda case: case["name"]
)
def test_package_built_has_the_recorded_entries(case: dict[str, Any], tmp_path: Path) -> None:
    grow(tmp_path / "node")
    metadata = json.loads(json.dumps(case["metadata_before"]))
    peer_files.write_package(tmp_path / "p.zip", tmp_path / "node", metadata)
    assert peer_files.unpack(tmp_path / "p.zip", tmp_path / "into") == case["metadata_after"] == metadata
    found = {
        path.relative_to(tmp_path / "into").as_posix(): path.read_bytes()
        for path in (tmp_path / "into").rglob("*")
        if path.is_file()
    }
    assert set(found) == {entry["path"] for entry in case["entries"]}


@pytest.mark.parametrize("case", PACKAGE["broken"], ids=lambda case: case["name"])
def test_broken_package_is_refused_whole(case: dict[str, Any], tmp_path: Path) -> None:
    package = tmp_path / "p.zip"
    package.write_bytes(base64.b64decode(case["package_b64"]))
    with pytest.raises((ValueError, zlib.error)):
        peer_files.unpack(package, tmp_path / "into")


@pytest.mark.parametrize("case", PACKAGE["comparisons"], ids=lambda case: case["name"])
def test_comparison_gives_the_recorded_groups(case: dict[str, Any]) -> None:
    groups = peer_files.compare(case["master"], case["worker"])
    assert groups == case["result"]
    assert list(groups) == ["missing", "extra", "shared"]


# The two roles against each other and against the transcript


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[StockMaster, StockWorker]]:
    """A stock master over the vectors' tree and an empty stock worker that has joined."""
    grow(tmp_path / "m")
    (tmp_path / "w" / "etc").mkdir(parents=True)
    with StockMaster(tmp_path / "m", KEY, name="specm") as master:
        with StockWorker(("127.0.0.1", master.port), KEY, "spec1", tmp_path / "w") as worker:
            worker.join()
            yield master, worker


def test_worker_and_master_make_their_trees_equal(cluster: tuple[StockMaster, StockWorker]) -> None:
    master, worker = cluster
    (worker.root / "etc/rules").mkdir()
    (worker.root / "etc/rules/stale.xml").write_text("old")
    assert worker.check() == "applied"
    assert worker.check() == "refused"
    master.scan_now()
    assert worker.check() == "equal"
    ours = {path: entry["hash"] for path, entry in peer_files.scan(worker.root).items()}
    assert ours == {path: entry["hash"] for path, entry in master.files.items()}
    assert (worker.root / "etc/client.keys").stat().st_mode & 0o777 == 0o640
    assert not worker.notes
    assert not master.session("spec1").notes


def test_check_with_differences_goes_like_the_transcript(cluster: tuple[StockMaster, StockWorker]) -> None:
    """Frames 11 to 34 of the recording: one check, then the package, in the same order with the same fields."""
    master, worker = cluster
    assert worker.check() == "applied"
    recorded = [e for e in TRANSCRIPT if e["seq"] > 10 and e.get("phase") in ("integrity check", "integrity sync")]
    end = next(i for i, e in enumerate(recorded) if e["command"] == "syn_m_c_e") + 2
    session = master.session("spec1")
    wait_until(lambda: len(session.link.record) >= end + 2, 60, "the whole exchange")
    got = [
        ("m>w" if seen.sent else "w>m", "request" if seen.is_request else "response", seen.command.split()[0])
        for seen in session.link.record[2:]
    ]
    assert got == [(e["dir"], e["role"], e["command"]) for e in recorded[:end]]
    replies = [(e["text"], e["dir"]) for e in recorded[:end] if e["role"] == "response" and len(e["text"]) != 36]
    assert [
        (s.payload.decode(), "m>w" if s.sent else "w>m")
        for s in session.link.record[2:]
        if not s.is_request and s.size != 36
    ] == replies


def test_large_package_travels_in_chunks_and_strings_in_pieces(cluster: tuple[StockMaster, StockWorker]) -> None:
    master, worker = cluster
    master.chunk_bytes = 100_000
    (master.root / "etc/lists/random").write_bytes(garbage(1_000_000))
    master.scan_now()
    assert worker.check() == "applied"
    sent = [seen for seen in master.session("spec1").link.record if seen.sent and seen.command == "file_upd"]
    assert len(sent) > 10
    assert (worker.root / "etc/lists/random").read_bytes() == garbage(1_000_000)
    name = worker.connection.send_string(b"x" * 1000, chunk_bytes=300)
    assert master.session("spec1").take_string(name) == b"x" * 1000


def refusal(master: StockMaster, root: Path, hello: str) -> str:
    with StockWorker(("127.0.0.1", master.port), KEY, "w", root) as worker:
        return error_of(worker.connect().link.ask("hello", hello)) or "accepted"


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        ("spec1 wazuh worker 4.14.1", 3028),
        ("specm wazuh worker 4.14.1", 3029),
        ("vec2 other worker 4.14.1", 3030),
        ("vec3 wazuh worker 4.14.0", 3031),
        ("vec4 wazuh worker", 1000),
        ("vec 5 wazuh worker 4.14.1", 1000),
    ],
)
def test_hello_is_refused_like_stock(
    cluster: tuple[StockMaster, StockWorker], tmp_path: Path, hello: str, code: int
) -> None:
    assert refusal(cluster[0], tmp_path, hello).startswith(f"{code}:")


def test_replies_of_both_roles_are_the_recorded_ones(cluster: tuple[StockMaster, StockWorker]) -> None:
    """Every recorded request whose reply does not depend on an earlier one or on Python's own texts."""
    master, worker = cluster
    replies = json.loads((VECTORS / "replies.json").read_text())
    independent = {"echo", "echo-c", "echo-m", "nope", "ok", "syn_e_w_m_r", "dapi_clus", "cancel_task", "syn_i_w_m_e"}
    checked = 0
    for role, link in (("master", worker.connection.link), ("worker", master.session("spec1").link)):
        for case in replies[role]:
            text = case["reply"]["payload"].get("text", "")
            if case["command"] not in independent or '"code": 1000' in text:
                continue
            answer = link.ask(case["command"], case["payload"].get("text", ""))
            assert answer.command.decode() == case["reply"]["command_field"].split()[0]
            assert answer.payload.decode() == text
            checked += 1
    assert checked > 14


def test_package_that_does_not_arrive_is_cancelled(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "w").mkdir()
    with StockMaster(tmp_path / "m", KEY, receive_timeout_s=0.1) as master:
        with StockWorker(("127.0.0.1", master.port), KEY, "w1", tmp_path / "w") as worker:
            worker.join()
            task = worker.ask("syn_i_w_m").payload
            worker.connection.link.wait_for(lambda seen: seen.command == "cancel_task", 60)
            wait_until(lambda: bool(worker.notes), 60, "the worker notes it")
            assert "3039" in worker.notes[0]
            answer = worker.ask("syn_i_w_m_e", task + b" queue/cluster/w1/x.zip")
            assert error_of(answer) == f"3027: {task.decode()}"


def test_worker_that_runs_comes_back_after_its_master_dropped_it(tmp_path: Path) -> None:
    grow(tmp_path / "m")
    (tmp_path / "w").mkdir()
    with StockMaster(tmp_path / "m", KEY, scan_interval_s=0.05) as master:
        with StockWorker(("127.0.0.1", master.port), KEY, "w1", tmp_path / "w") as worker:
            worker.run(interval_s=0.05, retry_s=0.05)
            wait_until(lambda: "equal" in worker.outcomes, 60, "first sync")
            first = master.session("w1")
            master.drop("w1")
            wait_until(lambda: master.sessions.get("w1") not in (None, first), 60, "reconnection")
            (worker.root / "etc/client.keys").write_text("tampered")
            wait_until(lambda: len(worker.packages) > 1, 60, "healing")


def test_hostile_bytes_are_what_they_say(cluster: tuple[StockMaster, StockWorker]) -> None:
    address = ("127.0.0.1", cluster[0].port)
    with RawPeer(address) as raw:
        raw.send(b"".join(build_frames(b"echo", 1, b"", None)) + garbage(200))
        assert raw.is_closed(5)
    with RawPeer(address) as raw:
        raw.send_pieces(b"".join(build_frames(b"echo", 5, b"hello", KEY)), 3)
        assert [(m.counter, m.payload) for m in raw.read_messages(KEY, 1)] == [(5, b"hello")]
        raw.send(half_header())
        assert not raw.is_closed(0.1)
    assert huge_length()[4:8] == b"\xff\xff\xff\xff"
    assert len(half_header()) < 20
    assert not [m for frame in divided_without_end(3, 10) for m in FrameReader(None).feed(frame)]


def test_closing_leaves_no_thread_and_no_file(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    grow(tmp_path / "m")
    (tmp_path / "w").mkdir()
    with StockMaster(tmp_path / "m", KEY) as master:
        with StockWorker(("127.0.0.1", master.port), KEY, "w1", tmp_path / "w") as worker:
            worker.join()
            worker.check()
    assert set(threading.enumerate()) <= before
    for node in ("m", "w"):
        assert not list((tmp_path / node / "queue/cluster").glob("*"))


def test_local_client_speaks_without_encryption_and_collects_later_answers(tmp_path: Path) -> None:
    path = tmp_path / "c-internal.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(60)
        client = LocalClient(path)
        server = ScriptedPeer(listener.accept()[0], None, tmp_path, "")
        server.link.start()
        try:
            assert client.ask("echo", b"x" * 6_000_000).payload == b"x" * 6_000_000
            server.link.ask("dapi_res", server.send_string(b"the answer"))
            assert client.answer_of("dapi_res") == b"the answer"
            server.link.ask("ok", "the daemon's answer")
            assert client.answer_of("ok") == b"the daemon's answer"
        finally:
            client.close()
            server.close()


def test_asking_a_closed_connection_raises(cluster: tuple[StockMaster, StockWorker]) -> None:
    master, worker = cluster
    master.drop("spec1")
    with pytest.raises(PeerError):
        worker.ask("echo", "x", timeout_s=5)
    with pytest.raises(OSError):
        LocalClient(worker.root / "no.sock")
