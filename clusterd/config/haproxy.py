"""The HAProxy helper's block (wire.md 7.3): checked like the stock daemon does, then reported as not run by clusterd."""

from clusterd.config.markup import Element
from clusterd.config.problem import Problem, shown
from clusterd.errors import ClusterError

INTEGERS = {
    "haproxy_port": (1024, 65535),
    "frequency": (10, None),
    "agent_chunk_size": (100, None),
    "agent_reconnection_time": (0, None),
    "agent_reconnection_stability_time": (10, None),
    "remove_disconnected_node_after": (0, None),
}
TEXTS = frozenset(
    {
        "haproxy_disabled",
        "haproxy_address",
        "haproxy_user",
        "haproxy_password",
        "haproxy_protocol",
        "haproxy_backend",
        "haproxy_resolver",
        "haproxy_cert",
        "client_cert",
        "client_cert_key",
        "client_cert_password",
        "excluded_nodes",
        "imbalance_tolerance",
    }
)


def check_haproxy(file: str, block: Element, problems: list[Problem], warnings: list[Problem]) -> None:
    """Add what is wrong with the block to `problems`, and that it is not run to `warnings`."""
    fields = {child.name: child for child in block.children}
    for name, field in fields.items():
        value = field.text
        if name in INTEGERS:
            _check_integer(file, field, value, problems)
        elif name == "imbalance_tolerance":
            _check_tolerance(file, field, value, problems)
        elif name == "haproxy_protocol" and value not in ("http", "https"):
            _wrong(file, field, "http, https", value, f"Invalid value for {name}. {value}", problems)
        elif name == "haproxy_disabled" and value not in ("yes", "no"):
            _wrong(file, field, "yes, no", value, f"Allowed values for '{name}' field are 'yes' and 'no'.", problems)
        elif name not in TEXTS:
            warnings.append(Problem(file, f"line {field.line}", f"<{name}> is not known and is ignored"))
    protocol, cert = fields.get("haproxy_protocol"), fields.get("haproxy_cert")
    if protocol is not None and protocol.text == "https" and cert is None:
        text = "haproxy_protocol https needs <haproxy_cert>"
        problems.append(Problem(file, f"line {protocol.line}", text, stock_text=str(ClusterError(3042))))
    disabled = fields.get("haproxy_disabled")
    if disabled is None or disabled.text != "yes":
        warnings.append(
            Problem(file, f"line {block.line}", "clusterd does not run the HAProxy helper; the block is ignored")
        )


def _check_integer(file: str, field: Element, value: str, problems: list[Problem]) -> None:
    lowest, highest = INTEGERS[field.name]
    allowed = f"a whole number from {lowest}" + (f" to {highest}" if highest is not None else "")
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        _wrong(file, field, allowed, value, f"HAProxy Helper {field.name} must be an integer.", problems)
        return
    number = int(value[:12])
    if lowest is not None and number < lowest:
        stock = f"Invalid value for {field.name}. {number} is less than the minimum of {lowest}"
        _wrong(file, field, allowed, value, stock, problems)
    elif highest is not None and number > highest:
        stock = f"Invalid value for {field.name}. {number} is greater than the maximum of {highest}"
        _wrong(file, field, allowed, value, stock, problems)


def _check_tolerance(file: str, field: Element, value: str, problems: list[Problem]) -> None:
    allowed = "a number above 0, at most 1"
    try:
        number = float(value)
    except ValueError:
        _wrong(file, field, allowed, value, f"HAProxy Helper {field.name} must be a float.", problems)
        return
    if not 0 < number <= 1:
        _wrong(file, field, allowed, value, f"Invalid value for {field.name}. {value} is out of range", problems)


def _wrong(file: str, field: Element, allowed: str, found: str, stock: str, problems: list[Problem]) -> None:
    text = f"<{field.name}> of the HAProxy helper is wrong"
    problems.append(Problem(file, f"line {field.line}", text, allowed, shown(found), str(ClusterError(3004, stock))))
