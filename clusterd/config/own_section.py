"""Section `clusterd` of etc/cluster.json: clusterd's own settings (docs/operations/reference.md)."""

import ipaddress
from collections.abc import Callable
from typing import Any, cast, get_args

from clusterd.config.ha import read_ha
from clusterd.config.hooks import read_hooks
from clusterd.config.json_section import ABSENT, JsonSection, read_struct
from clusterd.settings import (
    CAPABILITIES,
    LONGEST_S,
    ApiSettings,
    Clusterd,
    ForceRules,
    FrameworkMode,
    FrameworkSettings,
    JournalSettings,
    Limits,
    MonitorSettings,
    Tls,
)


def read_clusterd(section: JsonSection, root: str, warn: Callable[[str, str], None]) -> Clusterd:
    """Returns the settings of clusterd's own section. `root`: the node's; `warn`: takes a place and a text. Whatever is
    wrong goes to the section."""
    base = Clusterd()
    return read_struct(
        section,
        Clusterd,
        owner=section.text("owner", base.owner, "a user's name", lambda value: ":" not in value),
        version=section.text("version", base.version, "a version like 4.14.1, one word", _is_word),
        caps=_caps(section),
        framework=_framework(section),
        force=_force(section.section("force")),
        limits=read_struct(section.section("limits"), Limits),
        tls=read_struct(section.section("tls"), Tls),
        api=_api(section.section("api")),
        journal=read_struct(section.section("journal"), JournalSettings),
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
    if not isinstance(own.take("framework"), str):
        return read_struct(own.section("framework"), FrameworkSettings)
    modes = get_args(FrameworkMode)
    mode = own.text("framework", "auto", "auto, on, off, or an object", lambda value: value in modes)
    return FrameworkSettings(mode=cast(FrameworkMode, mode))


def _force(section: JsonSection) -> ForceRules:
    """`disconnected_time` may be null: then how long an agent has been away does not matter."""

    def time_s(key: str, default: int | None) -> Any:
        return section.number(f"{key}_time", default, 0, LONGEST_S, whole=True)

    base, waits = ForceRules(), section.take("disconnected_time") is not None
    return read_struct(
        section,
        ForceRules,
        disconnected_s=time_s("disconnected", base.disconnected_s) if waits else None,
        after_registration_s=time_s("after_registration", base.after_registration_s),
    )


def _api(section: JsonSection) -> ApiSettings:
    allowed = "an IP address of this machine, like 0.0.0.0 or ::"
    return read_struct(section, ApiSettings, host=section.text("host", ApiSettings().host, allowed, _is_address))


def _monitor(section: JsonSection, warn: Callable[[str, str], None]) -> MonitorSettings:
    allowed = "an IP address of this machine, like 127.0.0.1"
    address = section.text("address", MonitorSettings().address, allowed, _is_address)
    read = read_struct(section, MonitorSettings, address=address)
    if read.enabled and not ipaddress.ip_address(read.address).is_loopback:
        text = "everybody who reaches this address sees the state of the cluster: the monitoring port has no login"
        warn(section.where("address"), text)
    return read


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_word(value: str) -> bool:
    return bool(value) and value.isprintable() and not any(character.isspace() for character in value)
