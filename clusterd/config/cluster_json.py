"""etc/cluster.json (wire.md 7.1 and our section `clusterd`): the file overrides any part of the built-in defaults."""

import ipaddress
import json
from pathlib import Path
from typing import Any

import msgspec

from clusterd.config.ha import read_ha
from clusterd.config.hooks import read_hooks
from clusterd.config.json_section import ABSENT, JsonSection
from clusterd.config.problem import Problem, shown
from clusterd.errors import ClusterError
from clusterd.settings import (
    CAPABILITIES,
    DEFAULT_RULES,
    ApiSettings,
    Clusterd,
    Communication,
    ForceRules,
    FrameworkSettings,
    JournalSettings,
    Limits,
    MasterIntervals,
    MonitorSettings,
    Settings,
    Tls,
    WorkerIntervals,
)
from hashing.manifest import ItemRule, Rules

LONGEST_S = 31_536_000
LARGEST_BYTES = 1 << 50
LARGEST_BODY = 8 * 1024 * 1024
"""Largest REST request: it is passed on inside an API request, which has a bound of its own
(clusterd/dapi/protocol/request.py)."""
LARGEST_FILE = 4 * 1024 * 1024
_MOST_DIGITS = 30


class JsonRead(msgspec.Struct):
    """The result of reading the file. Use `settings` only if there are no problems."""

    settings: Settings
    problems: list[Problem] = msgspec.field(default_factory=list)
    warnings: list[Problem] = msgspec.field(default_factory=list)


def read_json(path: Path, settings: Settings) -> JsonRead:
    """`settings` overridden by what the file says; a missing file overrides nothing."""
    found = JsonRead(settings)
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        return found
    except OSError as failure:
        found.problems.append(_unreadable(path, "", f"cannot be read: {failure.strerror or failure}"))
        return found
    except UnicodeDecodeError as failure:
        line = data.count(b"\n", 0, failure.start) + 1
        found.problems.append(_unreadable(path, f"line {line}", "bytes that are no UTF-8; save this file as UTF-8"))
        return found
    if len(data) > LARGEST_FILE:
        found.problems.append(_unreadable(path, "", f"larger than {LARGEST_FILE} bytes"))
        return found
    try:
        content = json.loads(text, parse_int=_integer)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        found.problems.append(_unreadable(path, "", "a text holds half a character, an escape from \\ud800 to \\udfff"))
        return found
    except json.JSONDecodeError as failure:
        found.problems.append(_unreadable(path, f"line {failure.lineno}", f"this is not JSON: {failure.msg}"))
        return found
    except RecursionError:
        found.problems.append(_unreadable(path, "", "this is not JSON: nested too deeply"))
        return found
    _JsonReader(str(path), found).read(content)
    return found


def _integer(digits: str) -> int | float:
    """No setting is so large, and Python refuses to parse thousands of digits."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _unreadable(path: Path, where: str, text: str) -> Problem:
    return Problem(str(path), where, text, stock_text=str(ClusterError(3005, text)))


def _seconds(section: JsonSection, key: str, default: float, *, zero: bool = False) -> Any:
    return section.number(key, default, 0 if zero else 0.01, LONGEST_S)


class _JsonReader:
    def __init__(self, file: str, found: JsonRead) -> None:
        self._file = file
        self._found = found

    def wrong(self, where: str, allowed: str, value: object) -> None:
        self._found.problems.append(Problem(self._file, where, "this value is not allowed", allowed, shown(value)))

    def unknown(self, where: str) -> None:
        self.warn(where, "this key is not known and is ignored")

    def warn(self, where: str, text: str) -> None:
        self._found.warnings.append(Problem(self._file, where, text))

    def read(self, content: object) -> None:
        if not isinstance(content, dict):
            self._found.problems.append(Problem(self._file, "", "this is no object", "a JSON object", shown(content)))
            return
        top = JsonSection(self, "", content)
        intervals = top.section("intervals")
        worker, master = intervals.section("worker"), intervals.section("master")
        communication = intervals.section("communication")
        dapi = top.section("distributed_api")
        own = top.section("clusterd")
        pool_size = worker.number("process_pool_size", ABSENT, 0, 32, whole=True)
        if pool_size is ABSENT:
            pool_size = master.number("process_pool_size", 0, 0, 32, whole=True)
        else:
            master.take("process_pool_size")
        settings = self._found.settings
        self._found.settings = msgspec.structs.replace(
            settings,
            rules=self._rules(top.section("files"), own.directories("link_targets")),
            worker=self._worker(worker),
            master=self._master(master),
            communication=self._communication(communication),
            clusterd=self._clusterd(own),
            pool_size=pool_size,
            dapi_enabled=dapi.boolean("enabled", True),
        )
        for section in (top, intervals, worker, master, communication, dapi, own):
            section.done()

    # ---- intervals ---------------------------------------------------------------------------------------------------

    def _worker(self, section: JsonSection) -> WorkerIntervals:
        base = WorkerIntervals()
        return WorkerIntervals(
            sync_integrity_s=_seconds(section, "sync_integrity", base.sync_integrity_s),
            sync_agent_info_s=_seconds(section, "sync_agent_info", base.sync_agent_info_s),
            sync_agent_groups_s=_seconds(section, "sync_agent_groups", base.sync_agent_groups_s),
            timeout_agent_groups_s=_seconds(section, "timeout_agent_groups", base.timeout_agent_groups_s),
            keep_alive_s=_seconds(section, "keep_alive", base.keep_alive_s),
            connection_retry_s=_seconds(section, "connection_retry", base.connection_retry_s),
            max_failed_keepalive_attempts=section.number(
                "max_failed_keepalive_attempts", base.max_failed_keepalive_attempts, 1, 1000, whole=True
            ),
            agent_groups_mismatch_limit=section.number(
                "agent_groups_mismatch_limit", base.agent_groups_mismatch_limit, 1, 1_000_000, whole=True
            ),
        )

    def _master(self, section: JsonSection) -> MasterIntervals:
        base = MasterIntervals()
        return MasterIntervals(
            sync_agent_groups_s=_seconds(section, "sync_agent_groups", base.sync_agent_groups_s),
            timeout_extra_valid_s=_seconds(section, "timeout_extra_valid", base.timeout_extra_valid_s),
            recalculate_integrity_s=_seconds(section, "recalculate_integrity", base.recalculate_integrity_s),
            timeout_agent_info_s=_seconds(section, "timeout_agent_info", base.timeout_agent_info_s),
            agent_group_start_delay_s=_seconds(
                section, "agent_group_start_delay", base.agent_group_start_delay_s, zero=True
            ),
            check_worker_lastkeepalive_s=_seconds(
                section, "check_worker_lastkeepalive", base.check_worker_lastkeepalive_s
            ),
            max_allowed_time_without_keepalive_s=_seconds(
                section, "max_allowed_time_without_keepalive", base.max_allowed_time_without_keepalive_s
            ),
            max_locked_integrity_time_s=_seconds(
                section, "max_locked_integrity_time", base.max_locked_integrity_time_s
            ),
        )

    def _communication(self, section: JsonSection) -> Communication:
        base = Communication()
        read = Communication(
            timeout_cluster_request_s=_seconds(section, "timeout_cluster_request", base.timeout_cluster_request_s),
            timeout_dapi_request_s=_seconds(section, "timeout_dapi_request", base.timeout_dapi_request_s),
            timeout_receiving_file_s=_seconds(section, "timeout_receiving_file", base.timeout_receiving_file_s),
            max_zip_size_bytes=section.number("max_zip_size", base.max_zip_size_bytes, 1024, LARGEST_BYTES, whole=True),
            min_zip_size_bytes=section.number("min_zip_size", base.min_zip_size_bytes, 1024, LARGEST_BYTES, whole=True),
            compress_level=section.number("compress_level", base.compress_level, 0, 9, whole=True),
            zip_limit_tolerance=section.number("zip_limit_tolerance", base.zip_limit_tolerance, 0, 0.99),
        )
        if read.min_zip_size_bytes > read.max_zip_size_bytes:
            section.wrong("min_zip_size", f"at most max_zip_size ({read.max_zip_size_bytes})", read.min_zip_size_bytes)
        return read

    # ---- files -------------------------------------------------------------------------------------------------------

    def _rules(self, section: JsonSection, link_targets: tuple[str, ...]) -> Rules:
        """Directories named in the file replace or join the built-in ones; `null` takes one out."""
        items = {item.key: item for item in DEFAULT_RULES.items}
        excluded_files = section.texts("excluded_files", DEFAULT_RULES.excluded_files)
        extensions = section.texts("excluded_extensions", DEFAULT_RULES.excluded_extensions)
        for key in section.keys:
            if key in ("excluded_files", "excluded_extensions"):
                continue
            if section.take(key) is None:
                items.pop(key, None)
                continue
            if not _is_directory_key(key):
                section.wrong(key, "a directory below the root, like etc/rules/, with a slash at its end", key)
                section.section(key)
                continue
            items[key] = self._item(key, section.section(key), items.get(key))
        section.done()
        return Rules(tuple(items.values()), excluded_files, extensions, link_targets)

    def _item(self, key: str, section: JsonSection, base: ItemRule | None) -> ItemRule:
        base = base or ItemRule(key, ("all",), True, 0o660)
        permissions = section.text("permissions", oct(base.permissions), 'a mode as text, like "0o640"', _is_mode)
        for unused in ("source", "description", "restart"):
            section.take(unused)
        item = ItemRule(
            key,
            section.texts("files", base.files),
            section.boolean("recursive", base.recursive),
            int(permissions, 8),
            section.boolean("remove_subdirs_if_empty", base.remove_subdirs_if_empty),
            section.boolean("extra_valid", base.extra_valid),
        )
        section.done()
        return item

    # ---- our own section ---------------------------------------------------------------------------------------------

    def _clusterd(self, section: JsonSection) -> Clusterd:
        base = Clusterd()
        rule = section.text(
            "version_rule", base.version_rule, "exact, minor, any", lambda value: value in ("exact", "minor", "any")
        )
        store = section.text("store", base.store, "auto, on, off", lambda value: value in ("auto", "on", "off"))
        worker_api = section.text(
            "worker_api", base.worker_api, "full, read, off", lambda value: value in ("full", "read", "off")
        )
        return Clusterd(
            worker_api="read" if worker_api == "read" else "off" if worker_api == "off" else "full",
            store="on" if store == "on" else "off" if store == "off" else "auto",
            owner=section.text("owner", base.owner, "a user's name", lambda value: ":" not in value),
            version=section.text("version", base.version, "a version like 4.14.1, one word", _is_word),
            version_rule="minor" if rule == "minor" else "any" if rule == "any" else "exact",
            caps=self._caps(section),
            handshake_timeout_s=_seconds(section, "handshake_timeout", base.handshake_timeout_s),
            full_walk_s=_seconds(section, "full_walk", base.full_walk_s, zero=True),
            request_timeout_s=_seconds(section, "request_timeout", base.request_timeout_s),
            stuck_after_s=section.number("stuck_after", base.stuck_after_s, 2, 3600),
            stuck_busy_after_s=section.number("stuck_busy_after", base.stuck_busy_after_s, 10, 86400),
            delete_confirm_share=section.number("delete_confirm_share", base.delete_confirm_share, 0, 1),
            watch=section.boolean("watch", base.watch),
            max_delete_share=section.number("max_delete_share", base.max_delete_share, 0, 1),
            max_key_loss_share=section.number("max_key_loss_share", base.max_key_loss_share, 0, 1),
            key_loss_from=section.number("key_loss_from", base.key_loss_from, 1, 1_000_000, whole=True),
            framework=self._framework(section),
            force=self._force(section.section("force")),
            limits=self._limits(section.section("limits")),
            tls=self._tls(section.section("tls")),
            api=self._api(section.section("api")),
            journal=self._journal(section.section("journal")),
            monitor=self._monitor(section.section("monitor")),
            hooks=read_hooks(section.take("hooks"), section.wrong),
            ha=read_ha(section.section("ha"), self._found.settings.root, self.warn),
        )

    def _caps(self, section: JsonSection) -> tuple[str, ...]:
        """`true` (all), `false` (none), or an object that switches single ones off: {"lz4": false}."""
        value = section.take("caps")
        if value is ABSENT or value is True:
            return CAPABILITIES
        if value is False:
            return ()
        if not isinstance(value, dict):
            section.wrong("caps", 'true, false, or an object like {"lz4": false}', value)
            return CAPABILITIES
        switches = section.section("caps")
        on = tuple(name for name in CAPABILITIES if switches.boolean(name, True))
        switches.done()
        return on

    def _framework(self, own: JsonSection) -> FrameworkSettings:
        """A word, or an object with the word as its `mode`."""
        base, modes = FrameworkSettings(), ("auto", "on", "off")
        word = own.take("framework")
        if isinstance(word, str):
            mode = own.text("framework", base.mode, "auto, on, off, or an object", lambda value: value in modes)
            return FrameworkSettings(mode="on" if mode == "on" else "off" if mode == "off" else "auto")
        section = own.section("framework")
        mode = section.text("mode", base.mode, "auto, on, off", lambda value: value in modes)
        read = FrameworkSettings(
            mode="on" if mode == "on" else "off" if mode == "off" else "auto",
            python=section.text("python", base.python, "a file's path", bool),
            processes=section.number("processes", base.processes, 1, 16, whole=True),
            memory_bytes=section.number("memory_bytes", base.memory_bytes, 128 << 20, LARGEST_BYTES, whole=True),
            requests=section.number("requests", base.requests, 1, 1_000_000_000, whole=True),
            answer_bytes=section.number("answer_bytes", base.answer_bytes, 1 << 20, 1 << 32, whole=True),
        )
        section.done()
        return read

    def _force(self, section: JsonSection) -> ForceRules:
        """`disconnected_time` may be null: then how long an agent has been away does not matter."""
        base = ForceRules()
        waited: Any = None
        if section.take("disconnected_time") is not None:
            waited = section.number("disconnected_time", base.disconnected_s, 0, LONGEST_S, whole=True)
        read = ForceRules(
            enabled=section.boolean("enabled", base.enabled),
            disconnected_s=waited,
            after_registration_s=section.number(
                "after_registration_time", base.after_registration_s, 0, LONGEST_S, whole=True
            ),
            key_mismatch=section.boolean("key_mismatch", base.key_mismatch),
        )
        section.done()
        return read

    def _limits(self, section: JsonSection) -> Limits:
        values: dict[str, Any] = {}
        for field in msgspec.structs.fields(Limits):
            key = field.name.removesuffix("_s")
            if field.name.endswith("_s"):
                values[field.name] = _seconds(section, key, field.default, zero=True)
            elif field.name.endswith("_share"):
                values[field.name] = section.number(key, field.default, 0, 1)
            else:
                lowest = 1024 if key.endswith("_bytes") else 1
                values[field.name] = section.number(key, field.default, lowest, LARGEST_BYTES, whole=True)
        section.done()
        return Limits(**values)

    def _tls(self, section: JsonSection) -> Tls:
        base = Tls()
        read = Tls(
            enabled=section.boolean("enabled", base.enabled),
            cert=section.text("cert", base.cert, "a file's path", _is_any),
            key=section.text("key", base.key, "a file's path", _is_any),
            ca=section.text("ca", base.ca, "a file's path", _is_any),
            verify=section.boolean("verify", base.verify),
            server_name=section.text("server_name", base.server_name, "a host name", _is_any),
        )
        section.done()
        return read

    def _api(self, section: JsonSection) -> ApiSettings:
        base = ApiSettings()
        read = ApiSettings(
            enabled=section.boolean("enabled", base.enabled),
            host=section.text("host", base.host, "an IP address of this machine, like 0.0.0.0 or ::", _is_address),
            port=section.number("port", base.port, 1, 65535, whole=True),
            cert=section.text("cert", base.cert, "a file's path", bool),
            key=section.text("key", base.key, "a file's path", bool),
            token_s=section.number("token", base.token_s, 30, LONGEST_S, whole=True),
            connections=section.number("connections", base.connections, 1, 65536, whole=True),
            connections_per_address=section.number(
                "connections_per_address", base.connections_per_address, 1, 65536, whole=True
            ),
            connections_per_network=section.number(
                "connections_per_network", base.connections_per_network, 1, 65536, whole=True
            ),
            request_bytes=section.number("request_bytes", base.request_bytes, 1024, LARGEST_BODY, whole=True),
            request_timeout_s=section.number("request_timeout", base.request_timeout_s, 0.1, 3600),
            login_attempts=section.number("login_attempts", base.login_attempts, 1, 1_000_000, whole=True),
            login_window_s=_seconds(section, "login_window", base.login_window_s),
        )
        section.done()
        return read

    def _journal(self, section: JsonSection) -> JournalSettings:
        base = JournalSettings()
        read = JournalSettings(
            enabled=section.boolean("enabled", base.enabled),
            days=section.number("days", base.days, 0.01, 36500),
            size_bytes=section.number("size_bytes", base.size_bytes, 1 << 20, LARGEST_BYTES, whole=True),
        )
        section.done()
        return read

    def _monitor(self, section: JsonSection) -> MonitorSettings:
        base = MonitorSettings()
        read = MonitorSettings(
            enabled=section.boolean("enabled", base.enabled),
            address=section.text("address", base.address, "an IP address of this machine, like 127.0.0.1", _is_address),
            port=section.number("port", base.port, 1, 65535, whole=True),
            names=section.texts("names", base.names),
        )
        section.done()
        if read.enabled and not ipaddress.ip_address(read.address).is_loopback:
            text = "everybody who reaches this address sees the state of the cluster: the monitoring port has no login"
            self.warn(section.where("address"), text)
        return read


def _is_directory_key(key: str) -> bool:
    parts = key.split("/")
    return (
        key.endswith("/")
        and not key.startswith("/")
        and "\0" not in key
        and all(part not in ("", ".", "..") for part in parts[:-1])
    )


def _is_any(_: str) -> bool:
    return True


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_mode(value: str) -> bool:
    try:
        return 0 <= int(value, 8) <= 0o777
    except ValueError:
        return False


def _is_word(value: str) -> bool:
    return bool(value) and value.isprintable() and not any(character.isspace() for character in value)
