"""The settings of a node from its files: `etc/ossec.conf`, `etc/cluster.json`, the internal options.

All mistakes are reported at once; nothing here logs or prints.
"""

import re
from pathlib import Path

import msgspec

from clusterd.config_json import read_json
from clusterd.config_problem import Problem, shown
from clusterd.config_xml import read_block
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


def load(root: str, *, conf: str | None = None) -> Loaded:
    """Read and check everything. `conf`: another ossec.conf. Never raises for what is in the files."""
    base = Settings(root=root, conf=conf or "")
    block = read_block(Path(conf) if conf else Path(root, OSSEC_CONF))
    json_read = read_json(Path(root, CLUSTER_JSON), base)
    level, warnings = _log_level(Path(root))
    settings = msgspec.structs.replace(json_read.settings, cluster=block.block, log_level=level)
    problems = [*block.problems, *json_read.problems]
    if not problems and not settings.cluster.disabled:
        problems += _missing_files(settings)
    warnings = [*block.warnings, *json_read.warnings, *warnings]
    return Loaded(None if problems else settings, problems, warnings)


def _log_level(root: Path) -> tuple[int, list[Problem]]:
    """0, 1 or 2 (wire.md 7.4). A bad value counts as 0 and is warned about."""
    for name in INTERNAL_OPTIONS:
        path = root / name
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
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


def _missing_files(settings: Settings) -> list[Problem]:
    """Certificates that TLS and the REST API need must be there."""
    tls, api = settings.clusterd.tls, settings.clusterd.api
    wanted: list[tuple[str, str]] = []
    if tls.enabled and settings.is_master:
        wanted += [("tls.cert", tls.cert), ("tls.key", tls.key)]
    elif tls.enabled:
        wanted += [("tls.ca", tls.ca)]
    if api.enabled:
        wanted += [("api.cert", api.cert), ("api.key", api.key)]
    file = str(Path(settings.root, CLUSTER_JSON))
    return [
        Problem(file, f"clusterd.{key}", "this file is not there", "a file in PEM format", value)
        for key, value in wanted
        if value and not Path(settings.root, value).is_file()
    ]
