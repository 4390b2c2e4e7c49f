"""Trees to synchronise: generated ones that look like a manager's, copies of real ones, and changes to them.

`seed` decides everything: the same call on the same tree has the same result. Only files that nodes synchronise are
created, changed or deleted, except `etc/shared/ar.conf`, which exists because it must not be synchronised.
"""

import functools
import hashlib
import math
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tools.rig.peer_files import ITEMS, is_synchronised

SIGMA = 1.0
"""Spread of the lognormal sizes: with a mean of 8 KiB half of the files are below 5 KiB and one in a hundred above
50."""

KINDS = {
    "etc/rules": ".xml",
    "etc/decoders": ".xml",
    "etc/lists": "",
    "etc/shared": ".conf",
}
GROUPS = ("default", "linux", "windows", "web", "database", "dmz", "pci", "laptops", "kubernetes", "mail", "dns", "lab")
PROGRAMS = ("sshd", "sudo", "nginx", "postfix", "named", "kernel", "auditd", "vsftpd", "squid", "dovecot", "cron", "su")
WORDS = (  # noqa: SIM905 - a list of 37 lines reads worse
    "authentication failure session opened closed user root invalid password accepted denied connection timeout "
    "address port policy object access registry value service installed removed started stopped integrity "
    "checksum malware blocked quarantine signature update certificate expired tunnel lease request response"
).split()


@dataclass(frozen=True)
class Summary:
    """The content of a tree: number of synchronised files and their bytes."""

    files: int
    bytes: int


@dataclass(frozen=True)
class TreeChange:
    """One file touched. `kind`: edit, add, delete."""

    kind: Literal["edit", "add", "delete"]
    path: str


def generate(
    root: Path, *, seed: int = 1, agents: int = 250, groups: int = 8, files: int = 0, size: int = 8192
) -> Summary:
    """Creates a manager's tree below `root`.

    `files` 0: a realistic small set (about 100 files). Otherwise exactly `files` synchronised files in all, lognormal
    in size with a mean of `size` bytes, including as much of the realistic set as fits.
    """
    realistic, state = _realistic_set(seed, agents, min(groups, len(GROUPS)))
    written = 0
    for path, content in realistic:
        is_ours = not path.endswith("/ar.conf")
        if files and written == files and is_ours:
            break
        _write(root, path, content)
        written += is_ours
    if written < files:
        rng = random.Random()
        rng.setstate(state)
        _write_lognormal(root, rng, range(files - written), size)
    return summarise(root)


def _write_lognormal(root: Path, rng: random.Random, numbers: range, size: int) -> None:
    """Writes a file for each number, with a mean of `size` bytes."""
    corpus = _corpus(rng)
    mu = math.log(max(size, 1)) - SIGMA * SIGMA / 2
    for number in numbers:
        directory = list(KINDS)[number % len(KINDS)]
        below = f"group_{number % 40:02}" if directory == "etc/shared" else f"{number % 16:02}"
        wanted = max(1, round(rng.lognormvariate(mu, SIGMA)))
        content = f"# {number} {rng.getrandbits(64):016x}\n".encode()
        while len(content) < wanted:
            start = rng.randrange(len(corpus))
            content += corpus[start : start + wanted - len(content)]
        _write(root, f"{directory}/{below}/file_{number:05}{KINDS[directory]}", content[:wanted])


def copy_tree(source: Path, root: Path) -> Summary:
    """Copies a real tree into a node; `source` is only read.

    If it has `etc/`, its synchronised directories and client.keys are copied unchanged. Otherwise `rules`, `decoders`,
    `lists` and `shared` are copied to their place below etc/, `client.keys` to etc/, any other directory (such as
    `sca`) becomes a group below etc/shared, and loose files are copied to etc/shared/default. Links and special files
    are left out.
    """
    if (source / "etc").is_dir():
        pairs = [(source / key, key) for key in ITEMS if key != "etc/"]
        keys = source / "etc" / "client.keys"
    else:
        pairs = [
            (
                entry,
                f"etc/{entry.name}"
                if entry.name in ("rules", "decoders", "lists", "shared")
                else f"etc/shared/{entry.name}",
            )
            for entry in sorted(source.iterdir())
            if entry.is_dir() and not entry.is_symlink()
        ]
        keys = source / "client.keys"
        for loose in sorted(source.iterdir()):
            if loose != keys:
                _copy(loose, root / "etc/shared/default" / loose.name)
    _copy(keys, root / "etc/client.keys")
    for directory, target in pairs:
        for path in sorted(directory.rglob("*")):
            _copy(path, root / target / path.relative_to(directory))
    summary = summarise(root)
    if not summary.files:
        raise ValueError(
            f"{source} holds no file that a cluster synchronises (rules/, decoders/, lists/, shared/ or etc/)"
        )
    return summary


def paths(root: Path) -> list[str]:
    """Returns the synchronised files of a node, relative to its root, sorted."""
    found = []
    for key, (_, recursive, _, _) in ITEMS.items():
        for directory, below, names in os.walk(root / key):
            if not recursive:
                below.clear()
            found += [os.path.relpath(os.path.join(directory, n), root) for n in names if is_synchronised(key, n)]
    return sorted(found)


def summarise(root: Path) -> Summary:
    found = paths(root)
    return Summary(len(found), sum(_size(root / path) for path in found))


def change(root: Path, *, seed: int, edit: int = 1, add: int = 1, delete: int = 1) -> list[TreeChange]:
    """Edits, adds and deletes these numbers of files of a node. client.keys may be edited and is never deleted."""
    rng = random.Random(f"{seed}-change")
    present = paths(root)
    picked = rng.sample(present, min(len(present), edit + delete))
    edited, deleted = picked[:edit], [path for path in picked[edit:] if path != "etc/client.keys"]
    for path in edited:
        with (root / path).open("ab") as file:
            file.write(f"# edited {rng.getrandbits(64):016x}\n".encode())
    for path in deleted:
        (root / path).unlink()
    added = []
    for number in range(add):
        path = f"etc/rules/rig_{rng.getrandbits(32):08x}_{number}.xml"
        _write(root, path, _rules(rng, 100000 + number, 3))
        added.append(path)
    return [
        *(TreeChange("edit", path) for path in edited),
        *(TreeChange("add", path) for path in added),
        *(TreeChange("delete", path) for path in deleted),
    ]


def tamper(root: Path, *, seed: int) -> list[TreeChange]:
    """Tampers with a worker: rewrites a file with the same size and time, removes one, and plants one."""
    rng = random.Random(f"{seed}-tamper")
    present = [path for path in paths(root) if _size(root / path)]
    picked = rng.sample(present, min(2, len(present)))
    done = []
    for path in picked[:1]:
        file = root / path
        before = file.stat()
        content = file.read_bytes()
        file.write_bytes(bytes([content[0] ^ 0x20]) + content[1:])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        done.append(TreeChange("edit", path))
    for path in picked[1:]:
        (root / path).unlink(missing_ok=True)
        done.append(TreeChange("delete", path))
    planted = f"etc/rules/planted_{rng.getrandbits(32):08x}.xml"
    _write(root, planted, b'<group name="local,"><rule id="5710" level="0"/></group>\n')
    return [*done, TreeChange("add", planted)]


def _size(path: Path) -> int:
    """Returns the size in bytes; 0 for a file that a sync of the running node has just removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _write(root: Path, path: str, content: bytes) -> None:
    target = root / path
    try:
        target.write_bytes(content)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _copy(source: Path, target: Path) -> None:
    if source.is_file() and not source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


@functools.lru_cache(maxsize=4)
def _realistic_set(seed: int, agents: int, groups: int) -> tuple[list[tuple[str, bytes]], tuple[Any, ...]]:
    """Returns the realistic set, and the state of the generator behind it. A test run needs the same one for hundreds
    of rigs."""
    rng = random.Random(f"{seed}-tree")
    return list(_realistic(rng, agents, groups)), rng.getstate()


def _realistic(rng: random.Random, agents: int, groups: int) -> Iterator[tuple[str, bytes]]:
    names = [f"{rng.choice(PROGRAMS)}-{rng.choice(GROUPS)}-{number:03}" for number in range(1, agents + 1)]
    yield "etc/client.keys", b"".join(_key(rng, number, name) for number, name in enumerate(names, 1))
    yield "etc/shared/ar.conf", b"restart-wazuh0 - restart-wazuh - 0\nrestart-wazuh0 - restart-wazuh.exe - 0\n"
    chosen = GROUPS[:groups]
    for group in chosen:
        agent_conf = _agent_conf(rng, group)
        rootkit = "".join(f"{word} ! {rng.choice(WORDS)} ::\n" for word in WORDS * 4).encode()
        yield f"etc/shared/{group}/agent.conf", agent_conf
        yield f"etc/shared/{group}/rootkit_trojans.txt", rootkit
        yield f"etc/shared/{group}/cis_{group}_rcl.txt", _text(rng, rng.randrange(2000, 20000))
        yield (
            f"etc/shared/{group}/merged.mg",
            b"#%s\n!%d agent.conf\n%s" % (group.encode(), len(agent_conf), agent_conf),
        )
    for number in range(max(1, groups // 2)):
        pair = ",".join(sorted({chosen[0], chosen[number % len(chosen)], chosen[-1 - number % len(chosen)]}))
        yield f"var/multigroups/{hashlib.sha256(pair.encode()).hexdigest()[:8]}/merged.mg", _text(rng, 6000)
    for number, program in enumerate(PROGRAMS * 2):
        yield (
            f"etc/rules/{1000 + number * 5:04}-{program}_rules.xml",
            _rules(rng, 100200 + 100 * number, rng.randrange(5, 60)),
        )
    for number, program in enumerate(PROGRAMS):
        yield f"etc/decoders/{1000 + number * 5:04}-{program}_decoders.xml", _decoders(rng, program)
    yield "etc/rules/local_rules.xml", _rules(rng, 100001, 4)
    yield "etc/decoders/local_decoder.xml", _decoders(rng, "local_decoder_example")
    for name in (
        "audit-keys",
        "security-eventchannel",
        "amazon/aws-eventnames",
        "malicious-ioc/malicious-ip",
        "allowed users",
    ):
        rows = [
            f"{rng.choice(WORDS)}-{rng.getrandbits(40):010x}:{rng.choice(WORDS)}\n"
            for _ in range(rng.randrange(50, 2000))
        ]
        yield f"etc/lists/{name}", "".join(rows).encode()
        yield f"etc/lists/{name}.cdb", rng.randbytes(2048 + 16 * len(rows))


def _key(rng: random.Random, number: int, name: str) -> bytes:
    return f"{number:03} {name} any {rng.getrandbits(256):064x}\n".encode()


def _text(rng: random.Random, size: int) -> bytes:
    out = bytearray()
    while len(out) < size:
        out += " ".join(rng.choices(WORDS, k=12)).encode() + b"\n"
    return bytes(out[:size])


def _agent_conf(rng: random.Random, group: str) -> bytes:
    paths = "".join(
        f"    <directories realtime='yes'>/opt/{group}/{rng.choice(WORDS)}</directories>\n" for _ in range(6)
    )
    logs = "".join(
        f"  <localfile>\n    <log_format>syslog</log_format>\n    <location>/var/log/{p}.log</location>\n  "
        "</localfile>\n"
        for p in rng.sample(PROGRAMS, 4)
    )
    return f"<agent_config>\n  <syscheck>\n{paths}  </syscheck>\n{logs}</agent_config>\n".encode()


def _rules(rng: random.Random, first: int, count: int) -> bytes:
    rules = "".join(
        f'  <rule id="{first + number}" level="{rng.randrange(1, 15)}">\n    '
        f"<if_sid>{rng.randrange(100, 9000)}</if_sid>\n"
        f"    <match>{' '.join(rng.choices(WORDS, k=3))}</match>\n"
        f"    <description>{' '.join(rng.choices(WORDS, k=8))}.</description>\n"
        f"    <group>{rng.choice(WORDS)},pci_dss_{rng.randrange(1, 12)}.{rng.randrange(1, 9)},</group>\n  </rule>\n"
        for number in range(count)
    )
    return f'<group name="{rng.choice(PROGRAMS)},syslog,">\n{rules}</group>\n'.encode()


def _decoders(rng: random.Random, program: str) -> bytes:
    children = "".join(
        f'<decoder name="{program}-{number}">\n  <parent>{program}</parent>\n'
        f"  <regex>{' '.join(rng.choices(WORDS, k=3))} (\\S+) \\w+ (\\d+.\\d+.\\d+.\\d+)</regex>\n"
        f"  <order>{', '.join(rng.sample(('srcip', 'user', 'action', 'status', 'url'), 2))}</order>\n</decoder>\n\n"
        for number in range(rng.randrange(2, 12))
    )
    return f'<decoder name="{program}">\n  <program_name>^{program}</program_name>\n</decoder>\n\n{children}'.encode()


def _corpus(rng: random.Random) -> bytes:
    """Returns two MiB of configuration-like text to cut files from; about as compressible as real rules."""
    out = bytearray()
    while len(out) < 2 * 1024 * 1024:
        out += _rules(rng, rng.randrange(100000), 40) + _decoders(rng, rng.choice(PROGRAMS))
    return bytes(out)
