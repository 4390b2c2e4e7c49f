"""`clusterd.ha` of cluster.json: replicas of the master's state, and the election of the master in etcd."""

import ipaddress
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from clusterd.config.certificates import certificate_problem
from clusterd.config.json_section import ABSENT, JsonSection, read_struct
from clusterd.config.ossec_conf import RESERVED, split_address
from clusterd.config.problem import Problem, shown
from clusterd.names import is_address
from clusterd.rights import DEFAULT_OWNER
from clusterd.settings import EtcdSettings, HaSettings, Settings

ETCD_PORT = 2379
MOST_ENDPOINTS = 16
MOST_PASSWORD_BYTES = 1024
ENDPOINTS = f'a list of URLs of etcd members, like ["https://10.0.0.1:{ETCD_PORT}"], without user, path or query'
NOT_SHOWN = "(not shown)"
OPEN_BITS = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
Warn = Callable[[str, str], None]


def read_ha(section: JsonSection, root: str, warn: Warn) -> HaSettings:
    """The settings; relative paths in it are below `root`. `warn` takes a key and what is doubtful about it."""
    base = HaSettings()
    enabled = section.boolean("enabled", base.enabled)
    replica = section.boolean("replica", enabled)
    if enabled and not replica:
        section.wrong("replica", "true, or nothing: a candidate keeps a replica", replica)
    return read_struct(
        section,
        HaSettings,
        replica=replica,
        enabled=enabled,
        etcd=_etcd(section.section("etcd"), root, warn),
        prefix=section.text("prefix", base.prefix, "a path like /clusterd/NAME, no slash at its end", _is_prefix),
        advertise=section.text("advertise", base.advertise, "HOST:PORT, as other nodes reach this one", _is_reachable),
        on_promote=_program(section, "on_promote"),
        on_demote=_program(section, "on_demote"),
    )


def _etcd(section: JsonSection, root: str, warn: Warn) -> EtcdSettings:
    def path(key: str) -> str:
        value = section.text(key, "", "a file's path", bool)
        return str(Path(root, value)) if value else ""

    read = EtcdSettings(
        endpoints=_endpoints(section),
        ca=path("ca"),
        cert=path("cert"),
        key=path("key"),
        user=section.text("user", "", "a user's name", str.isprintable),
        password_file=path("password_file"),
    )
    section.done()
    for one in read.endpoints:
        if one.startswith("http:") and not is_this_machine(urlsplit(one).hostname or ""):
            text = f"{one}: whoever is on this network can read and change who leads: use https, with ca, cert and key"
            warn(section.where("endpoints"), text)
    return read


def _endpoints(section: JsonSection) -> tuple[str, ...]:
    value = section.take("endpoints")
    if value is ABSENT:
        return ()
    if not isinstance(value, list) or not value or len(value) > MOST_ENDPOINTS:
        section.wrong("endpoints", f"{ENDPOINTS}; 1 to {MOST_ENDPOINTS}", NOT_SHOWN)
        return ()
    found = []
    for one in value:
        url = endpoint_url(one)
        if not url:
            # A URL may have a password in it.
            section.wrong("endpoints", ENDPOINTS, NOT_SHOWN if "@" in str(one) else one)
            return ()
        found.append(url)
    if len(set(found)) < len(found):
        section.wrong("endpoints", "each member once", value)
    return tuple(found)


def endpoint_url(value: object) -> str:
    """A member's URL with its port, empty for what is none."""
    try:
        parts = urlsplit(value) if isinstance(value, str) and value.isprintable() and " " not in value else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            return ""
        port = parts.port or ETCD_PORT
    except ValueError:
        return ""
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def is_this_machine(host: str) -> bool:
    """Whether what is sent to this host stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_prefix(value: str) -> bool:
    return value.startswith("/") and len(value) > 1 and not value.endswith("/") and value.isprintable()


def _is_reachable(value: str) -> bool:
    address = split_address(value)
    return is_address(value) and address is not None and address[1] is not None and address[0] not in RESERVED


def _program(section: JsonSection, key: str) -> tuple[str, ...]:
    value = section.take(key)
    if value is ABSENT:
        return ()
    is_good = isinstance(value, list) and all(isinstance(word, str) and "\0" not in word for word in value)
    if not is_good or not value or not value[0].startswith("/"):
        section.wrong(
            key, 'a list of a program\'s absolute path and its arguments, like ["/usr/local/bin/move"]', NOT_SHOWN
        )
        return ()
    return tuple(value)


# ---- what the settings need ------------------------------------------------------------------------------------------


def ha_problems(settings: Settings, file: str) -> list[Problem]:
    """What is missing for these settings, on this machine. `file`: where they are from."""
    return [Problem(file, f"clusterd.ha.{where}", text, allowed) for where, text, allowed in _problems(settings)]


def _problems(settings: Settings) -> Iterator[tuple[str, str, str]]:
    ha, etcd = settings.clusterd.ha, settings.clusterd.ha.etcd
    if ha.replica and settings.clusterd.store == "off":
        where = "enabled" if ha.enabled else "replica"
        yield where, "a replica needs clusterd's own store", "clusterd.store auto or on"
    if not ha.enabled:
        return
    if not etcd.endpoints:
        yield "etcd.endpoints", "the election needs etcd", ENDPOINTS
    if not ha.advertise:
        yield "advertise", "the other nodes must know where this one is", "HOST:PORT of this node's cluster port"
    if not ha.prefix and "/" in settings.configured.name:
        yield "prefix", "the cluster's name has a slash, and its keys would be below those of another", "a prefix"
    if bool(etcd.user) != bool(etcd.password_file):
        yield "etcd", "a user needs a password, and a password a user", "user and password_file, or neither"
    if bool(etcd.cert) != bool(etcd.key):
        yield "etcd", "a certificate needs its key, and a key its certificate", "cert and key, or neither"
    yield from _tls_problems(etcd)
    if etcd.password_file:
        yield from _secret_problems(settings, "etcd.password_file", etcd.password_file)
    if etcd.key:
        yield from _secret_problems(settings, "etcd.key", etcd.key)


def _tls_problems(etcd: EtcdSettings) -> Iterator[tuple[str, str, str]]:
    plain = [one for one in etcd.endpoints if one.startswith("http:")]
    if plain and (etcd.ca or etcd.cert):
        yield "etcd.endpoints", f"ca and cert are given, and {shown(plain[0])} uses no TLS", "https:// for all members"
    if etcd.ca:
        import ssl  # not for nodes without TLS

        try:
            ssl.create_default_context(cafile=etcd.ca)
        except FileNotFoundError:
            yield "etcd.ca", f"{etcd.ca} is not there", "certificates in PEM format"
        except OSError as failure:
            text = getattr(failure, "reason", "") or failure.strerror
            yield "etcd.ca", f"{etcd.ca} cannot be used: {text}", "certificates in PEM format"
    if etcd.cert and etcd.key:
        text = certificate_problem(Path(etcd.cert), Path(etcd.key))
        if text:
            yield "etcd.cert", text, ""


def _secret_problems(settings: Settings, where: str, path: str) -> Iterator[tuple[str, str, str]]:
    """A file with a secret: the daemon's user can read it, and nobody else can read or replace it."""
    try:
        status = os.stat(path)
    except OSError as failure:
        yield where, f"{path} cannot be read: {failure.strerror}", "a file that the daemon's user can read"
        return
    if not stat.S_ISREG(status.st_mode):
        yield where, f"{path} is no file", "a file that the daemon's user can read"
        return
    uid, groups = _daemon(settings.clusterd.owner)
    if status.st_mode & OPEN_BITS:
        yield where, f"others than its owner may read or change {path}: chmod 600 {path}, and better make a new one", ""
    if status.st_uid not in (0, uid):
        yield where, f"{path} belongs to another user than root and the daemon's: chown root {path}", ""
    is_readable = uid == 0 or (
        status.st_mode & stat.S_IRUSR
        if status.st_uid == uid
        else status.st_gid in groups and status.st_mode & stat.S_IRGRP
    )
    if not is_readable:
        yield where, f"the daemon's user may not read {path}: chown it to that user, mode 600", ""
    elif where == "etcd.password_file":
        text = _password_problem(path)
        if text:
            yield where, text, "a file with one line, the password"


def _password_problem(path: str) -> str:
    try:
        read_password(path)
    except ValueError as failure:
        return str(failure)
    except OSError as failure:
        return f"{path} cannot be read: {failure.strerror}"
    return ""


def read_password(path: str) -> str:
    """The password in this file, its only line. Raises ValueError, which names the file, for anything else, and
    OSError."""
    with open(path, "rb") as file:
        data = file.read(MOST_PASSWORD_BYTES + 1)
    line = data.removesuffix(b"\n").removesuffix(b"\r")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} holds bytes that are no UTF-8") from None
    if not text or not text.isprintable() or len(data) > MOST_PASSWORD_BYTES:
        raise ValueError(f"{path} does not hold one line with a password")
    return text


def _daemon(owner: str) -> tuple[int, set[int]]:
    """The user that the daemon runs as, and that user's groups (clusterd/supervisor/privileges.py)."""
    if os.geteuid() != 0:
        return os.geteuid(), {os.getegid(), *os.getgroups()}
    try:
        found = pwd.getpwnam(owner or DEFAULT_OWNER)
    except KeyError:  # it stays root, or the start says so
        return 0, {0}
    return found.pw_uid, set(os.getgrouplist(found.pw_name, found.pw_gid))
