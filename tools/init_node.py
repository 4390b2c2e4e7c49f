"""`clusterd init`: the directories and the configuration of a new node. Never overwrites; a refusal changes nothing."""

import os
import pwd
import re
import secrets
import shutil
import socket
from pathlib import Path
from xml.sax.saxutils import escape

import msgspec

from clusterd.config.ossec_conf import HIGHEST_PORT, LOWEST_PORT, RESERVED, split_address
from clusterd.errors import PlainFailure, in_words
from clusterd.names import cluster_name_problem, node_name_problem
from clusterd.rundir import root_problem
from tools.api_setup import read_cluster_json, turn_on

DIRECTORIES = (
    "etc/shared/default",
    "etc/rules",
    "etc/decoders",
    "etc/lists",
    "var/multigroups",
    "var/run",
    "logs",
    "queue/cluster",
    "queue/db",
    "queue/sockets",
)
DIRECTORY_MODE = 0o770
OWNER = "wazuh"
KEY = re.compile(r"[A-Za-z0-9_]{32}")
DEFAULT_PORT = 1516
CONFIGURATION = """<ossec_config>
  <cluster>
    <name>{cluster}</name>
    <node_name>{name}</node_name>
    <node_type>{node_type}</node_type>
    <key>{key}</key>
    <port>{port}</port>
    <bind_addr>{bind}</bind_addr>
    <nodes>
      <node>{node}</node>
    </nodes>
    <hidden>no</hidden>
    <disabled>no</disabled>
  </cluster>
</ossec_config>
"""


class InitRefused(PlainFailure):
    """Nothing was changed. The text tells why and what to do."""


class Made(msgspec.Struct, frozen=True):
    """The results to show to the operator."""

    lines: list[str]


def init_node(
    root: str,
    *,
    node_type: str,
    name: str,
    cluster: str,
    key_file: str | None,
    environment_key: str | None,
    port: int | None,
    bind: str,
    master: str | None,
    with_api: bool = False,
) -> Made:
    """Creates the node. The key is from `key_file`, else from `environment_key`; a master without one gets a new key.

    Raises InitRefused or SetupProblem before anything is changed, OSError (disk full, no permission) while files are
    created."""
    problem = node_name_problem(name) or cluster_name_problem(cluster) or root_problem(root)
    if problem is not None:
        raise InitRefused(problem)
    conf = Path(root, "etc", "ossec.conf")
    if conf.exists():
        raise InitRefused(f"{conf} exists already and is not overwritten; choose another --root or move it away")
    lines: list[str] = []
    if node_type == "master":
        if master is not None:
            raise InitRefused("--master is for workers: it says where their master is")
        node = _master_address(bind, lines)
        port = port or DEFAULT_PORT
    else:
        node, port = _address_of_master(master, port)
    key, is_new = _key(node_type, key_file, environment_key)
    json_content = read_cluster_json(root) if with_api else {}
    made = _make_tree(Path(root))
    content = CONFIGURATION.format(
        cluster=escape(cluster), name=escape(name), node_type=node_type, key=key, port=port, bind=escape(bind),
        node=escape(node),
    )  # fmt: skip
    options = Path(root, "etc", "internal_options.conf")
    if not options.exists():
        _write_new(options, "# 0: INFO, 1: DEBUG, 2: DEBUG2\nwazuh_clusterd.debug=0\n", 0o640)
        made.append(options)
    if with_api:
        made += turn_on(root, json_content, name=name)
        lines.append(f"The REST API is on. Add a user with: clusterd --root {root} api user add NAME")
    _write_new(conf, content, 0o640)  # the last one: what failed before it is made again by the same command
    made.append(conf)
    lines[:0] = [f"Made the {node_type} {name} of cluster {cluster} at {root}."]
    lines += _hand_over(Path(root), made)
    if is_new:
        lines += [
            f"A new cluster key is in {conf}. Workers need the same; on the machine of each:",
            f"    clusterd init --type worker --name NAME --master HOST:{port} --key-file FILE",
            f"where FILE holds the text between <key> and </key> of {conf}, copied over a safe way and removed "
            "afterwards.",
        ]
    lines.append(f"Start it with: clusterd --root {root} start")
    return Made(lines)


def _master_address(bind: str, lines: list[str]) -> str:
    """Returns the master's own <node>: its bind address, or, if that is not one to show, an address of this machine."""
    if not bind or any(character.isspace() for character in bind):
        raise InitRefused(f"--bind {bind!r} is not an address")
    if bind not in RESERVED and bind != "::":
        return f"[{bind}]" if ":" in bind else bind
    shown = "127.0.0.1"
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))  # sends nothing: it only asks the routing table
                found = probe.getsockname()[0]
        except OSError:
            continue
        if found not in RESERVED:
            shown = found
            break
    lines.append(f"It listens on all addresses; node lists will show it as {shown} (<node> in etc/ossec.conf).")
    return f"[{shown}]" if ":" in shown else shown


def _address_of_master(master: str | None, port: int | None) -> tuple[str, int]:
    """Returns a worker's <node> and <port>. Stock workers dial <port>, so a port in --master is written there."""
    if master is None:
        raise InitRefused("a worker needs to know its master: --master HOST[:PORT]")
    address = split_address(master)
    if address is None:
        raise InitRefused(f"--master {master!r} is not HOST, HOST:PORT or [IPV6]:PORT")
    host, given = address
    if host in RESERVED:
        raise InitRefused(f"--master {host} is reserved; use the master's address (127.0.0.1 for this machine)")
    if port is not None and given is not None and port != given:
        raise InitRefused(f"--port {port} and --master {master} name two ports; leave one out")
    chosen = port or given or DEFAULT_PORT
    if not LOWEST_PORT < chosen < HIGHEST_PORT:
        raise InitRefused(f"port {chosen} is out of range; allowed: {LOWEST_PORT + 1} to {HIGHEST_PORT - 1}")
    return (f"[{host}]" if ":" in host else host), chosen


def _key(node_type: str, key_file: str | None, environment_key: str | None) -> tuple[str, bool]:
    """Returns the cluster key and whether it is a new one. It is never shown."""
    if key_file is not None:
        try:
            key = Path(key_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as failure:
            raise InitRefused(f"the key file {key_file} cannot be read: {in_words(failure)}") from failure
        source = f"the key in {key_file}"
    elif environment_key:
        key, source = environment_key.strip(), "the key in CLUSTERD_KEY"
    elif node_type == "master":
        return secrets.token_hex(16), True
    else:
        raise InitRefused("a worker needs the cluster's key: --key-file FILE or the environment variable CLUSTERD_KEY")
    if not KEY.fullmatch(key):
        raise InitRefused(f"{source} is not a cluster key: exactly 32 ASCII letters, digits or underscores")
    return key, False


def _make_tree(root: Path) -> list[Path]:
    """Creates missing directories; returns what was created, parents first."""
    made = []
    for directory in DIRECTORIES:
        path = root / directory
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir(mode=DIRECTORY_MODE)
            # The umask must not deny the group access to the tree: the other daemons of the node are its members.
            parent.chmod(DIRECTORY_MODE if parent != root and root in parent.parents else 0o755)
            made.append(parent)
    return made


def _write_new(path: Path, content: str, mode: int) -> None:
    """Leaves nothing of a file that cannot be written (disk full, Ctrl-C): the next init would not overwrite it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
    except BaseException:
        path.unlink()
        raise


def _hand_over(root: Path, made: list[Path]) -> list[str]:
    """As root: gives the new files to the owner, if there is one."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam(OWNER)
    except KeyError:
        return []
    for path in made:
        if path == root or root in path.parents:
            shutil.chown(path, OWNER, OWNER)
    return [f"Everything below it belongs to the user {OWNER}."]
