"""The settings of a node from its files: `etc/ossec.conf`, `etc/cluster.json`, the internal options, and the role that
it was given beside them.

All mistakes are reported at once; nothing here logs or prints.
"""

import re
import stat
from pathlib import Path

import msgspec

from clusterd.config.certificates import certificate_problem
from clusterd.config.cluster_json import read_json
from clusterd.config.ha import ha_problems
from clusterd.config.ossec_conf import read_block
from clusterd.config.problem import Problem, shown
from clusterd.role import ROLE_FILE, RoleDamaged, read_role
from clusterd.settings import Settings

OSSEC_CONF = "etc/ossec.conf"
CLUSTER_JSON = "etc/cluster.json"
INTERNAL_OPTIONS = ("etc/local_internal_options.conf", "etc/internal_options.conf")
DEBUG_OPTION = "wazuh_clusterd.debug"
_OPTION = re.compile(rf"^\s*{re.escape(DEBUG_OPTION)}\s*=(.*)$")


class Loaded(msgspec.Struct, frozen=True):
    """`settings` is None exactly when there are problems."""

    settings: Settings | None
    problems: list[Problem]
    warnings: list[Problem]


def load(root: str, *, conf: str | None = None, with_api_files: bool = True, with_role: bool = True) -> Loaded:
    """Read and check everything. `conf`: another ossec.conf. `with_api_files`: whether certificate and key of the
    REST API must be good; the command that makes them cannot ask for them. `with_role` False: as if role.json were not
    there, for the command that mends it. Never raises for what is in the files."""
    base = Settings(root=root, conf=conf or "")
    block = read_block(Path(conf) if conf else Path(root, OSSEC_CONF))
    json_read = read_json(Path(root, CLUSTER_JSON), base)
    level, warnings = _log_level(Path(root))
    settings = msgspec.structs.replace(json_read.settings, cluster=block.block, log_level=level)
    problems = [*block.problems, *json_read.problems]
    try:
        given = read_role(root) if with_role else None
    except RoleDamaged as failure:
        problems.append(Problem(str(Path(root, ROLE_FILE)), "", str(failure)))
    else:
        settings = settings if given is None else settings.with_role(given)
    if not problems and not settings.cluster.disabled:
        problems += missing_files(settings)
        port_problems, port_warnings = _shared_ports(settings)
        problems += port_problems
        warnings += port_warnings
        problems += ha_problems(settings, str(Path(root, CLUSTER_JSON)))
        if settings.clusterd.api.enabled and with_api_files:
            problems += _api_file_problems(settings)
    warnings = [*block.warnings, *json_read.warnings, *warnings]
    return Loaded(None if problems else settings, problems, warnings)


def _log_level(root: Path) -> tuple[int, list[Problem]]:
    """0, 1 or 2 (wire.md 7.4). A bad value counts as 0 and is warned about."""
    for name in INTERNAL_OPTIONS:
        path = root / name
        try:
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except FileNotFoundError:
            continue
        except OSError as failure:
            return 0, [Problem(str(path), "", f"cannot be read: {failure.strerror or failure}")]
        for number, line in reversed(list(enumerate(lines, 1))):
            match = _OPTION.match(line)
            if match is None:
                continue
            value = match[1].strip()
            if value in ("0", "1", "2"):
                return int(value), []
            text = f"{DEBUG_OPTION} is not understood; the log has level INFO"
            return 0, [Problem(str(path), f"line {number}", text, "0, 1, 2", shown(value))]
    return 0, []


def missing_files(settings: Settings) -> list[Problem]:
    """Report missing certificates that TLS needs in the role that these settings have."""
    tls = settings.clusterd.tls
    wanted: list[tuple[str, str]] = []
    if tls.enabled and settings.is_master:
        wanted += [("tls.cert", tls.cert), ("tls.key", tls.key)]
    elif tls.enabled:
        wanted += [("tls.ca", tls.ca)]
    file = str(Path(settings.root, CLUSTER_JSON))
    return [
        Problem(file, f"clusterd.{key}", problem, "a file in PEM format", value)
        for key, value in wanted
        if value and (problem := _file_problem(Path(settings.root, value)))
    ]


def _shared_ports(settings: Settings) -> tuple[list[Problem], list[Problem]]:
    """Returns mistakes and warnings about two sockets of the node itself on one port: the second one would blame
    another program. A mistake is only what no node can work with: others serve without the monitor, or until they
    lead."""
    own = settings.clusterd
    ports = [("<port>", settings.cluster.bind_addr, settings.cluster.port)]
    if not (settings.is_master or own.ha.enabled):
        ports = []
    if own.api.enabled:
        ports.append(("clusterd.api.port", own.api.host, own.api.port))
    if own.monitor.enabled:
        ports.append(("clusterd.monitor.port", own.monitor.address, own.monitor.port))
    file = str(Path(settings.root, CLUSTER_JSON))
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for number, (where, address, port) in enumerate(ports):
        for first, other, taken in ports[:number]:
            if port != taken or not (_covers(address, other) or _covers(other, address)):
                continue
            if where != "clusterd.api.port":
                text, found = f"this node uses this port for {first}, too: only one of the two works", warnings
            elif own.ha.enabled:
                text, found = f"this node uses this port for {first}, too, once it leads: only one works then", warnings
            else:
                text, found = f"this node uses this port for {first}, too", problems
            found.append(Problem(file, where, text, "another port", str(port)))
    return problems, warnings


def _covers(one: str, other: str) -> bool:
    """Whether who listens at one address leaves the other one to nobody else."""
    return one in (other, "::") or (one in ("", "0.0.0.0") and ":" not in other)


def _file_problem(path: Path) -> str:
    """Why this is no file that can be used, empty if it is one. The node's user may not be allowed to look at it."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_file = False
    except OSError as failure:
        return f"this file cannot be looked at: {failure.strerror}"
    return "" if is_file else "this file is not there"


def _api_file_problems(settings: Settings) -> list[Problem]:
    """The REST API's certificate and key: there, the key not open to everybody, one made for the other."""
    api, file = settings.clusterd.api, str(Path(settings.root, CLUSTER_JSON))
    problems = []
    for where, value in (("clusterd.api.cert", api.cert), ("clusterd.api.key", api.key)):
        path = Path(settings.root, value)
        if problem := _file_problem(path):
            problems.append(Problem(file, where, problem, "a file in PEM format", value))
        elif where.endswith("key") and path.stat().st_mode & stat.S_IRWXO:
            text = f"every user of this machine may read this key: chmod 600 {path}, and better make a new one"
            problems.append(Problem(file, where, text))
    if problems:
        return problems
    text = certificate_problem(Path(settings.root, api.cert), Path(settings.root, api.key))
    return [Problem(file, "clusterd.api.cert", text)] if text else []
