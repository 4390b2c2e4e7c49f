"""The type of options that are the address of a node."""

from typing import Any

import click


class NodeAddress(click.ParamType[str]):
    """HOST, HOST:PORT, [V6]:PORT or a bare V6 address, at which other nodes reach a master and which they believe."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from clusterd.config.ossec_conf import RESERVED, split_address  # the daemon: not for --help
        from clusterd.names import is_address

        text = str(value)
        host, port = split_address(text) or ("", None)
        if not is_address(f"[{host}]:{port or 1}" if ":" in host else f"{host}:{port or 1}"):
            self.fail(f"{text!r} is not HOST, HOST:PORT or [IPV6]:PORT.", param, ctx)
        if host in RESERVED:
            self.fail(f"{host} is not where other nodes reach a node.", param, ctx)
        return text
