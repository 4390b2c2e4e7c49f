"""Section `clusterd` of etc/cluster.json: clusterd's own settings (docs/operations/reference.md)."""

import ipaddress
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.config.ha import read_ha
from clusterd.config.hooks import read_hooks
from clusterd.config.json_section import ABSENT, LARGEST_BYTES, LONGEST_S, JsonSection, seconds
from clusterd.settings import (
    CAPABILITIES,
    ApiSettings,
    Clusterd,
    ForceRules,
    FrameworkSettings,
    JournalSettings,
    Limits,
    MonitorSettings,
    Tls,
)

LARGEST_BODY = 8 * 1024 * 1024
"""Largest REST request: it is passed on inside an API request, which has a bound of its own
(clusterd/dapi/protocol/request.py)."""


def read_clusterd(section: JsonSection, root: str, warn: Callable[[str, str], None]) -> Clusterd:
    """Returns the settings of clusterd's own section. `root`: the node's; `warn`: takes a place and a text. Whatever is
    wrong goes to the section."""
    base = Clusterd()
    rule = section.text(
        "version_rule", base.version_rule, "exact, minor, any", lambda value: value in ("exact", "minor", "any")
    )
    store = section.text("store", base.store, "auto, on, off", lambda value: value in ("auto", "on", "off"))
    worker_api = section.text(
        "worker_api", base.worker_api, "full, read, off", lambda value: value in ("full", "read", "off")
    )
    missing = section.text(
        "missing_permissions", base.missing_permissions, "allow, deny", lambda value: value in ("allow", "deny")
    )
    return Clusterd(
        missing_permissions="deny" if missing == "deny" else "allow",
        worker_api="read" if worker_api == "read" else "off" if worker_api == "off" else "full",
        store="on" if store == "on" else "off" if store == "off" else "auto",
        owner=section.text("owner", base.owner, "a user's name", lambda value: ":" not in value),
        version=section.text("version", base.version, "a version like 4.14.1, one word", _is_word),
        version_rule="minor" if rule == "minor" else "any" if rule == "any" else "exact",
        caps=_caps(section),
        handshake_timeout_s=seconds(section, "handshake_timeout", base.handshake_timeout_s),
        full_walk_s=seconds(section, "full_walk", base.full_walk_s, zero=True),
        request_timeout_s=seconds(section, "request_timeout", base.request_timeout_s),
        stuck_after_s=section.number("stuck_after", base.stuck_after_s, 2, 3600),
        stuck_busy_after_s=section.number("stuck_busy_after", base.stuck_busy_after_s, 10, 86400),
        delete_confirm_share=section.number("delete_confirm_share", base.delete_confirm_share, 0, 1),
        watch=section.boolean("watch", base.watch),
        max_delete_share=section.number("max_delete_share", base.max_delete_share, 0, 1),
        max_key_loss_share=section.number("max_key_loss_share", base.max_key_loss_share, 0, 1),
        key_loss_from=section.number("key_loss_from", base.key_loss_from, 1, 1_000_000, whole=True),
        framework=_framework(section),
        force=_force(section.section("force")),
        limits=_limits(section.section("limits")),
        tls=_tls(section.section("tls")),
        api=_api(section.section("api")),
        journal=_journal(section.section("journal")),
        monitor=_monitor(section.section("monitor"), warn),
        hooks=read_hooks(section.take("hooks"), section.wrong),
        ha=read_ha(section.section("ha"), root, warn),
    )


def _caps(section: JsonSection) -> tuple[str, ...]:
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


def _framework(own: JsonSection) -> FrameworkSettings:
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


def _force(section: JsonSection) -> ForceRules:
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


def _limits(section: JsonSection) -> Limits:
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(Limits):
        key = field.name.removesuffix("_s")
        if field.name.endswith("_s"):
            values[field.name] = seconds(section, key, field.default, zero=True)
        elif field.name.endswith("_share"):
            values[field.name] = section.number(key, field.default, 0, 1)
        else:
            lowest = 1024 if key.endswith("_bytes") else 1
            values[field.name] = section.number(key, field.default, lowest, LARGEST_BYTES, whole=True)
    section.done()
    return Limits(**values)


def _tls(section: JsonSection) -> Tls:
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


def _api(section: JsonSection) -> ApiSettings:
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
        login_window_s=seconds(section, "login_window", base.login_window_s),
    )
    section.done()
    return read


def _journal(section: JsonSection) -> JournalSettings:
    base = JournalSettings()
    read = JournalSettings(
        enabled=section.boolean("enabled", base.enabled),
        days=section.number("days", base.days, 0.01, 36500),
        size_bytes=section.number("size_bytes", base.size_bytes, 1 << 20, LARGEST_BYTES, whole=True),
    )
    section.done()
    return read


def _monitor(section: JsonSection, warn: Callable[[str, str], None]) -> MonitorSettings:
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
        warn(section.where("address"), text)
    return read


def _is_any(_: str) -> bool:
    return True


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_word(value: str) -> bool:
    return bool(value) and value.isprintable() and not any(character.isspace() for character in value)
