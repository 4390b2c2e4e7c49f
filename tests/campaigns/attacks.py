"""Attacks by strangers and by malicious nodes that have the key; test_attacks.py makes them without a pause."""

import contextlib
import hashlib
import json
import random
import socket
import time
import uuid
import zlib
from collections.abc import Callable, Iterator

from clusterd.users import add_user, make_user
from clusterd.wire.frame import build_header
from tests.conftest import KEY
from tools.rig.nodes import Rig
from tools.rig.peer import (
    PeerMessage,
    RawPeer,
    ScriptedLink,
    dial,
    divided_without_end,
    garbage,
    half_header,
    huge_length,
)
from tools.rig.peer_files import FILE_SEP, METADATA, PATH_SEP
from tools.rig.ports import HOST
from tools.rig.wdb_client import WdbClient, WdbError

Attack = Callable[[Rig, random.Random], None]


def answers_nothing(message: PeerMessage) -> tuple[bytes, bytes] | None:
    return None


def raw(content: Callable[[random.Random], bytes]) -> Attack:
    def attack(rig: Rig, rng: random.Random) -> None:
        with RawPeer((HOST, rig.master.port)) as peer:
            peer.send(content(rng))
            time.sleep(rng.uniform(0, 1))

    return attack


def idle(rig: Rig, rng: random.Random) -> None:
    peers = [RawPeer((HOST, rig.master.port)) for _ in range(30)]
    time.sleep(rng.uniform(0, 2))
    for peer in peers:
        peer.close()


def wrong_key(rig: Rig, rng: random.Random) -> None:
    link = ScriptedLink(dial((HOST, rig.master.port)), "f" * 32, answers_nothing, "x")
    link.start()
    try:
        link.tell("hello", "x rig worker 4.14.1")
        time.sleep(rng.uniform(0, 1))
    finally:
        link.close()


def node(
    *asked: tuple[str, bytes], answers: Callable[[PeerMessage], tuple[bytes, bytes] | None] = answers_nothing
) -> Attack:
    """A node that has the key and is broken or malicious."""

    def attack(rig: Rig, rng: random.Random) -> None:
        name = f"evil{rng.randrange(10**6)}"
        link = ScriptedLink(dial((HOST, rig.master.port)), KEY, answers, name)
        link.start()
        try:
            link.ask("hello", f"{name} rig worker 4.14.1")
            for command, payload in asked:
                link.tell(command, payload)
            time.sleep(rng.uniform(0, 2))
        finally:
            link.close()

    return attack


# ---- strangers -------------------------------------------------------------------------------------------------------


def flood_of_addresses(rig: Rig, rng: random.Random) -> None:
    """Connections from many addresses, each of which causes a complaint."""
    for _ in range(60):
        source = f"127.{rng.randrange(1, 255)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
        with (
            contextlib.suppress(OSError),
            socket.create_connection((HOST, rig.master.port), 5, source_address=(source, 0)) as sock,
        ):
            sock.sendall(garbage(300, rng.randrange(10**6)))


def silent_sockets(rig: Rig, rng: random.Random) -> None:
    """Connections from many networks that never send a byte."""
    held = []
    for number in range(100):
        with contextlib.suppress(OSError):
            source = (f"127.{number + 1}.0.1", 0)
            held.append(socket.create_connection((HOST, rig.master.port), 5, source_address=source))
    time.sleep(rng.uniform(0, 3))
    for sock in held:
        sock.close()


# ---- nodes that have the key -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(rig: Rig, name: str) -> Iterator[ScriptedLink]:
    link = ScriptedLink(dial((HOST, rig.master.port)), KEY, answers_nothing, "evil")
    link.start()
    try:
        link.ask("hello", f"{name} rig worker 4.14.1")
        yield link
    finally:
        link.close()


def evil(rng: random.Random) -> str:
    return f"evil{rng.randrange(10**6)}"


def check_with(package: Callable[[], bytes]) -> Attack:
    """Plays a worker's check with this as its package."""

    def attack(rig: Rig, rng: random.Random) -> None:
        name = evil(rng)
        with joined(rig, name) as link:
            if link.ask("syn_i_w_m_p").payload != b"True":
                return
            task = link.ask("syn_i_w_m").payload.decode()
            path = f"/queue/cluster/{name}/{name}-{time.time()}-{uuid.uuid4().hex}.zip".encode()
            content = package()
            link.ask("new_file", path)
            for at in range(0, len(content), 500_000):
                link.ask("file_upd", path + b" " + content[at : at + 500_000])
            link.ask("file_end", path + b" " + hashlib.sha256(content).digest())
            link.ask("syn_i_w_m_e", f"{task} {path.decode()[1:]}")
            time.sleep(rng.uniform(0, 2))

    return attack


def bomb() -> bytes:
    """Metadata that unpack to 512 MiB."""
    packing = zlib.compressobj(9)
    packed = b"".join(packing.compress(bytes(1 << 20)) for _ in range(512)) + packing.flush()
    return METADATA.encode() + PATH_SEP + packed


def named(*paths: str) -> bytes:
    row = {"mod_time": 1.0, "cluster_item_key": "etc/rules/", "merged": False, "hash": "0" * 128}
    metadata = json.dumps(dict.fromkeys(paths, row)).encode()
    return METADATA.encode() + PATH_SEP + zlib.compress(metadata)


def deep_paths() -> bytes:
    return named(*("etc/rules/" + "d/" * (1000 + n) + "x" for n in range(20)))


def odd_names() -> bytes:
    """Metadata whose paths would forge log lines and control terminals."""
    forged = "2026/11/29 00:00:00 ERROR: [Cluster] [Main] forged"
    return named(
        f"etc/rules/a\n{forged}", "etc/rules/\x1b[2J\x1b]0;owned\x07", "etc/rules/\u202egnp.xml", "../../etc/x"
    )


def entries_that_are_none() -> bytes:
    return FILE_SEP.join([b"etc/rules/x" + PATH_SEP + b"no stream"] * 3000)


def sixteen_strings(rig: Rig, rng: random.Random) -> None:
    """Begins as many strings as a link may have and completes none; then the same with files."""
    name = evil(rng)
    with joined(rig, name) as link:
        for _ in range(17):
            link.tell("new_str", b"5000000")
        for number in range(17):
            link.tell("new_file", f"/queue/cluster/{name}/{number}")
        time.sleep(rng.uniform(0, 3))


def trickle(rig: Rig, rng: random.Random) -> None:
    """Large bodies on ten links, each sent a few bytes at a time."""
    header = build_header(7, 5_000_000, "echo", False)
    links: list[tuple[socket.socket, ScriptedLink]] = []
    try:
        for _ in range(10):
            sock = dial((HOST, rig.master.port))
            link = ScriptedLink(sock, KEY, answers_nothing, "evil")
            links.append((sock, link))
            link.start()
            link.ask("hello", f"{evil(rng)} rig worker 4.14.1")
            sock.sendall(header)
        for _ in range(rng.randrange(20)):
            for sock, _link in links:
                sock.sendall(b"x" * 100)
            time.sleep(0.1)
    finally:
        for _sock, link in links:
            link.close()


def guessing(rig: Rig, rng: random.Random) -> None:
    with joined(rig, evil(rng)) as link:
        for number in range(100):
            guess = {
                "f": {
                    "__callable__": {
                        "__name__": "check_user_master",
                        "__module__": "api.authentication",
                        "__qualname__": "check_user_master",
                        "__type__": "function",
                    }
                },
                "f_kwargs": {"user": "admin", "password": f"guess {number}"},
                "request_type": "local_master",
            }
            link.tell("dapi", f"{number} {json.dumps(guess)}")
        time.sleep(rng.uniform(0, 3))


STATEMENTS = (
    "drop table agent",
    "select hex(zeroblob(400000000))",
    "pragma journal_mode = delete",
    "attach database '/etc/x' as x",
    "with recursive a(n) as (select 1 union all select n + 1 from a) select count(*) from a",
    "create trigger t after update on agent begin delete from agent; end",
)


def statements(rig: Rig, rng: random.Random) -> None:
    """A program on the master that uses the socket of its agent database."""
    with contextlib.suppress(WdbError), WdbClient(rig.master.root) as client:
        client.ask(f"global sql {rng.choice(STATEMENTS)}")


def names(rig: Rig, rng: random.Random) -> None:
    """Hellos with invalid names or versions."""
    odd = ("-rf", "..", ".hidden", "self", "a/b", "n" * 5000, "a\nb", "\x1b[2Jx", "a\0b", "")
    for name in odd:
        link = ScriptedLink(dial((HOST, rig.master.port)), KEY, answers_nothing, "evil")
        link.start()
        try:
            link.tell("hello", f"{name} rig worker 4.14.1\n2026/11/29 00:00:00 ERROR: [Cluster] [Main] forged")
            time.sleep(0.02)
        finally:
            link.close()


def prepare(rig: Rig) -> None:
    """Prepares what attacks need, before the nodes start."""
    add_user(str(rig.master.root), make_user("admin", "correct horse battery", time.time()))


DEEP = b"[" * 100_000
ATTACKS: dict[str, Attack] = {
    "length of 4 GiB": raw(lambda rng: huge_length()),
    "garbage": raw(lambda rng: garbage(100_000, rng.randrange(10**6))),
    "half a header": raw(lambda rng: half_header()),
    "divided without end": raw(lambda rng: b"".join(divided_without_end(20, 1_000_000))),
    "idle connections": idle,
    "wrong key": wrong_key,
    "paths that climb": node(("new_file", b"/queue/cluster/../../etc/x"), ("new_file", b"/etc/passwd")),
    "file without end": node(
        ("new_file", b"/queue/cluster/evil/x"), *[("file_upd", b"/queue/cluster/evil/x " + b"x" * 90_000)] * 20
    ),
    "string without end": node(("new_str", b"999999999999"), ("new_str", b"-1"), ("new_str", b"x")),
    "deep JSON": node(("dapi", b"id " + DEEP), ("get_nodes", DEEP), ("syn_i_w_m_r", b"None " + DEEP), ("caps", DEEP)),
    "unknown commands": node(*[(f"nothing{n}", b"x" * 1000) for n in range(200)]),
    "flood of requests": node(*[("echo", b"x" * 5000)] * 500),
    "checks without a package": node(*[("syn_i_w_m", b"")] * 20),
    "digests that cannot be": node(*[("syn_digest", b"\xff" * 500)] * 50, ("syn_buckets", b"\xff" * 100_000)),
    "functions that are none": node(
        *[("dapi", b"id " + json.dumps({"f": {"__callable__": {"__name__": "system", "__module__": "os"}}}).encode())]
        * 20
    ),
    "answers to nothing": node(
        *[(word, b"x" * 3000) for word in ("syn_w_g_err", "syn_wgc_err", "cancel_task", "syn_i_w_m_r")] * 500
    ),
    "keepalives without end": node(*[("echo-c", b"x")] * 3000),
    "names of others": node(
        ("hello", b"rig_manager_1 rig worker 4.14.1"), ("hello", b"rig_manager_2 rig worker 4.14.1")
    ),
    "flood of addresses": flood_of_addresses,
    "silent sockets": silent_sockets,
    "bomb": check_with(bomb),
    "deep paths": check_with(deep_paths),
    "forged lines": check_with(odd_names),
    "entries that are none": check_with(entries_that_are_none),
    "sixteen strings": sixteen_strings,
    "trickle": trickle,
    "guessing": guessing,
    "statements": statements,
    "odd names": names,
}
