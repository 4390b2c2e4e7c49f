"""The <cluster> block of ossec.conf (wire.md 7.2): read with line numbers, checked, all mistakes at once.

The file around the block is read as its other readers take it (clusterd/config/markup.py). The block itself must be
XML: a node's identity and key are never guessed.
"""

import re
from pathlib import Path
from xml.parsers import expat

import msgspec

from clusterd.config.markup import Document, Element, TooMuch, read_markup, read_plain, text_of
from clusterd.config.problem import Problem, shown
from clusterd.errors import ClusterError
from clusterd.names import node_name_problem
from clusterd.settings import ClusterBlock, Secret

LARGEST_CONF = 16 * 1024 * 1024
MOST_WARNINGS = 5
"""About the file around the block."""
RESERVED = ("localhost", "NODE_IP", "0.0.0.0", "127.0.1.1")
FIELDS = frozenset(
    {
        "name",
        "node_name",
        "node_type",
        "key",
        "port",
        "bind_addr",
        "nodes",
        "hidden",
        "disabled",
        "haproxy_helper",
        "interval",
    }
)
KEY_CHARACTERS = 32
LOWEST_PORT, HIGHEST_PORT = 1024, 65535
_WORD = re.compile(r"\w+", re.ASCII)


class BlockRead(msgspec.Struct):
    """The result of reading the block. Use `block` only if there are no problems."""

    block: ClusterBlock = ClusterBlock(disabled=True)
    problems: list[Problem] = msgspec.field(default_factory=list)
    warnings: list[Problem] = msgspec.field(default_factory=list)


def read_block(path: Path) -> BlockRead:
    """Read and check the block of this file. Nothing is raised: what is wrong is in `problems`."""
    found = BlockRead()
    name = str(path)
    try:
        document = read_conf(path)
    except OSError as failure:
        found.problems.append(_unreadable(name, "", f"cannot be read: {failure.strerror or failure}"))
        return found
    except (TooMuch, ValueError) as failure:
        found.problems.append(_unreadable(name, "", f"cannot be read: {failure}"))
        return found
    blocks = document.sections("cluster")
    if not blocks:
        # Without a fault this is a node without a cluster. With one the block may be what was swallowed.
        for complaint in document.complaints[:MOST_WARNINGS]:
            text = f"this is not XML, and no <cluster> was found: {complaint.text}"
            found.problems.append(_unreadable(name, f"line {complaint.line}", text))
        return found
    block = blocks[-1]
    if len(blocks) > 1:
        text = "There are multiple cluster sections in configuration. Using only last section."
        found.warnings.append(Problem(name, f"line {block.line}", text))
    for complaint in document.complaints[:MOST_WARNINGS]:
        if not block.start <= complaint.at < block.end:
            text = f"{complaint.text}; clusterd reads on, other programs may refuse this file"
            found.warnings.append(Problem(name, f"line {complaint.line}", text))
    strict = _strict_block(name, document, block, found.problems)
    if strict is not None:
        _Checker(name, strict, found).check()
    return found


def read_conf(path: Path) -> Document:
    """An ossec.conf. Raises OSError, TooMuch, ValueError."""
    with open(path, "rb") as file:
        data = file.read(LARGEST_CONF + 1)
    if len(data) > LARGEST_CONF:
        raise TooMuch(f"larger than {LARGEST_CONF} bytes")
    return read_markup(text_of(data))


def _strict_block(file: str, document: Document, block: Element, problems: list[Problem]) -> Element | None:
    """The block as XML has it, None with what is wrong in `problems`."""
    text = document.text[block.start : block.end]
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(text.encode(), True)
    except (expat.ExpatError, ValueError) as failure:
        line, wrong = block.line, str(failure)
        if faults := document.complaints_in(block):
            line, wrong = faults[0].line, faults[0].text
        elif isinstance(failure, expat.ExpatError):
            line, wrong = block.line - 1 + (failure.lineno or 1), expat.ErrorString(failure.code)
        problems.append(_unreadable(file, f"line {line}", f"the <cluster> block is not XML: {wrong}"))
        return None
    if "\ufffd" in text:
        line = block.line + text.count("\n", 0, text.index("\ufffd"))
        wrong = "bytes that are no UTF-8 in the <cluster> block"
        problems.append(_unreadable(file, f"line {line}", wrong))
        return None
    (strict,) = read_plain("\n" * (block.line - 1) + text).roots
    return strict


def _refuse_doctype(name: str, *_: object) -> None:
    """Entities can be declared nowhere else, so nothing is ever expanded or fetched."""
    raise ValueError(f"a document type ({name}) has no place here")


def _unreadable(file: str, where: str, text: str) -> Problem:
    return Problem(file, where, text, stock_text=str(ClusterError(3006, text)))


def split_address(text: str) -> tuple[str, int | None] | None:
    """`HOST`, `HOST:PORT` or `[V6]:PORT` as (host, port or None); None when it is none of these."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            return None
    else:
        host, port = text, ""
    if not host or any(character.isspace() for character in host) or (port and not port.isdecimal()):
        return None
    if port and not 0 < int(port) < HIGHEST_PORT + 1:
        return None
    return host, int(port) if port else None


class _Checker:
    """Checks one block, in the order of wire.md 7.2, and fills a BlockRead."""

    def __init__(self, file: str, block: Element, found: BlockRead) -> None:
        self._file = file
        self._block = block
        self._found = found

    def check(self) -> None:
        seen: set[str] = set()
        for child in self._block.children:
            if child.name not in FIELDS:
                self._warn(child, f"<{child.name}> is not known and is ignored")
            elif child.name in seen and child.name == "nodes":
                self._warn(child, "<nodes> is given more than once; all of them count, the first <node> first")
            elif child.name in seen and child.name != "haproxy_helper":
                self._warn(child, f"<{child.name}> is given more than once; the last one counts")
            seen.add(child.name)
        disabled = self._disabled()
        port = self._port()
        if disabled:
            # A disabled node is not checked further: distributions ship the block disabled and without a key.
            self._found.block = ClusterBlock(disabled=True)
            return
        key = self._key()
        node_type = self._node_type()
        nodes = self._nodes()
        self._names()
        haproxy = self._block.last("haproxy_helper")
        if haproxy is not None:
            off = [field.text for field in haproxy.children if field.name == "haproxy_disabled"]
            if off[-1:] != ["yes"]:
                text = "clusterd does not run the HAProxy helper; the block is ignored"
                self._found.warnings.append(Problem(self._file, f"line {haproxy.line}", text))
        self._found.block = ClusterBlock(
            name=self._text("name", "wazuh"),
            node_name=self._text("node_name", "node01"),
            node_type="worker" if node_type == "worker" else "master",
            key=Secret(key.encode()),
            port=port,
            bind_addr=self._text("bind_addr", "0.0.0.0"),
            nodes=tuple(nodes),
            hidden=self._text("hidden", "no"),
            disabled=False,
        )

    # ---- fields ------------------------------------------------------------------------------------------------------

    def _text(self, field: str, default: str) -> str:
        element = self._block.last(field)
        return (element.text if element is not None else "") or default

    def _where(self, field: str) -> str:
        return f"line {(self._block.last(field) or self._block).line}"

    def _wrong(self, field: str, text: str, stock: str, *, allowed: str = "", found: str = "") -> None:
        self._found.problems.append(
            Problem(self._file, self._where(field), text, allowed, found, str(ClusterError(3004, stock)))
        )

    def _warn(self, element: Element, text: str) -> None:
        self._found.warnings.append(Problem(self._file, f"line {element.line}", text))

    def _disabled(self) -> bool:
        value = self._text("disabled", "no")
        if value not in ("yes", "no"):
            stock = f"Allowed values for 'disabled' field are 'yes' and 'no'. Found: '{value}'"
            self._wrong("disabled", "<disabled> is not understood", stock, allowed="yes, no", found=shown(value))
        return value == "yes"

    def _port(self) -> int:
        value = self._text("port", "1516")
        allowed = f"a whole number from {LOWEST_PORT + 1} to {HIGHEST_PORT - 1}"
        if not (value.isascii() and value.isdigit()):
            self._wrong(
                "port", "<port> is no number", "Cluster port must be an integer.", allowed=allowed, found=shown(value)
            )
            return 0
        if not LOWEST_PORT < int(value[:9]) < HIGHEST_PORT:
            stock = "Port must be higher than 1024 and lower than 65535."
            self._wrong("port", "<port> is out of range", stock, allowed=allowed, found=value)
        return int(value[:9])

    def _key(self) -> str:
        value = self._text("key", "")
        allowed = f"exactly {KEY_CHARACTERS} ASCII letters, digits or underscores"
        if not value:
            self._wrong("key", "<key> is missing", "Unspecified key", allowed=allowed)
        elif len(value) != KEY_CHARACTERS or not _WORD.fullmatch(value):
            found = f"{len(value)} characters" if len(value) != KEY_CHARACTERS else "another character among them"
            stock = "Key must be 32 characters long and only have alphanumeric characters"
            self._wrong("key", "<key> is not a cluster key", stock, allowed=allowed, found=found)
        return value

    def _node_type(self) -> str:
        value = self._text("node_type", "master")
        if value == "client":
            element = self._block.last("node_type") or self._block
            self._warn(element, "Deprecated node type 'client'. Using 'worker' instead.")
            return "worker"
        if value not in ("master", "worker"):
            stock = f"Invalid node type {value}. Correct values are master and worker"
            self._wrong(
                "node_type", "<node_type> is not understood", stock, allowed="master, worker", found=shown(value)
            )
        return value

    def _nodes(self) -> list[str]:
        texts = [text for element in self._block.children if element.name == "nodes" for text in element.texts("node")]
        nodes = list(dict.fromkeys(text for text in texts if text)) or ["NODE_IP"]
        parsed = {node: split_address(node) for node in nodes}
        reserved = [node for node, address in parsed.items() if address is not None and address[0] in RESERVED]
        if reserved:
            self._wrong(
                "nodes",
                "<node> needs an address that other nodes can reach",
                f"Invalid elements in node fields: {', '.join(reserved)}.",
                allowed=f"host names and addresses except {', '.join(RESERVED)}",
                found=", ".join(reserved) if texts else "no <node>",
            )
        for node, address in parsed.items():
            if address is None:
                self._wrong(
                    "nodes",
                    "<node> is not an address",
                    f"Invalid elements in node fields: {node}.",
                    allowed="HOST, HOST:PORT, [IPV6]:PORT",
                    found=shown(node),
                )
        return nodes

    def _names(self) -> None:
        for field, default in (("node_name", "node01"), ("name", "wazuh")):
            value = self._text(field, default)
            if any(character.isspace() for character in value):
                element = self._block.last(field) or self._block
                self._warn(
                    element, f"<{field}> has a space: no master lets such a node in. Choose {shown(value)} without it"
                )
            elif field == "node_name":
                problem = node_name_problem(value)
                if problem is not None:
                    self._wrong(field, problem, f"Invalid node name {value}", found=shown(value))
