"""The XML of rules and decoders (dapi.md 5.6): several root elements, and the liberties that files of the real ruleset take with it.

A backslash takes its meaning from a `<` behind it (`\\<` in a pattern is no tag), `&` may stand alone, comments may hold `--`.
"""

import re
from typing import Any
from xml.sax import SAXException
from xml.sax.handler import ContentHandler

import msgspec
from defusedxml import sax
from defusedxml.common import DefusedXmlException

LARGEST_XML = 4 * 1024 * 1024
"""Bytes of one file; the largest of the stock ruleset has 120,000."""
DEEPEST = 64
MOST_ELEMENTS = 200_000
"""Elements and attributes of one file."""

# What is not closed runs to the end, so that a text of a million openings is looked through once and not a million times.
_LIBERTIES = re.compile(
    r"(?P<comment><!--(?:.*?-->|.*\Z))|(?P<data><!\[CDATA\[(?:.*?\]\]>|.*\Z))|(?P<declaration><\?xml\s[^<>]*\?>)"
    r"|(?P<backslash>\\[\\<])|(?P<ampersand>&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6});))",
    re.DOTALL,
)


class MalformedXml(Exception):
    """The text is not what rules and decoders may be; the exception's text says where and why."""


class Element(msgspec.Struct):
    """`parts`: its own text in pieces."""

    name: str
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    parts: list[str] = msgspec.field(default_factory=list)
    children: list["Element"] = msgspec.field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts).strip()

    def texts(self, name: str) -> list[str]:
        """Texts of the children of this name."""
        return [child.text for child in self.children if child.name == name]


class _Builder(ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.top = Element("")
        self._stack = [self.top]
        self._count = 0

    def startElement(self, name: str, attrs: Any) -> None:
        attributes = dict(attrs.items())
        self._count += 1 + len(attributes)
        if self._count > MOST_ELEMENTS or len(self._stack) > DEEPEST:
            raise MalformedXml(f"more than {MOST_ELEMENTS} elements, or nested more than {DEEPEST} deep")
        element = Element(name, attributes)
        self._stack[-1].children.append(element)
        self._stack.append(element)

    def endElement(self, name: str) -> None:
        self._stack.pop()

    def characters(self, content: str) -> None:
        self._stack[-1].parts.append(content)


def parse_ruleset(text: str) -> list[Element]:
    """The root elements. Raises MalformedXml, also for a text without any and for text outside of them.

    Text that only is XML if backslashes mean nothing (`<match>C:\\</match>`) is read that way."""
    if len(text) > LARGEST_XML or len(text.encode(errors="replace")) > LARGEST_XML:
        raise MalformedXml(f"larger than {LARGEST_XML} bytes")
    try:
        return _parse(_strict(text, backslashes=True))
    except MalformedXml as failure:
        if "\\<" not in text:
            raise
        try:
            return _parse(_strict(text, backslashes=False))
        except MalformedXml:
            raise failure from None


def _parse(text: str) -> list[Element]:
    builder = _Builder()
    try:
        sax.parseString(f"<root>{text}</root>".encode(errors="replace"), builder, forbid_dtd=True)
    except (SAXException, DefusedXmlException, ValueError) as failure:
        raise MalformedXml(str(failure).removeprefix("<unknown>:")) from None
    root = builder.top.children[0]
    if root.text:
        raise MalformedXml("text outside of all elements")
    if not root.children:
        raise MalformedXml("no elements")
    return root.children


def _strict(text: str, *, backslashes: bool) -> str:
    """The same as XML that any parser reads, on the same lines."""

    def replaced(found: re.Match[str]) -> str:
        whole = found[0]
        match found.lastgroup:
            case "comment":
                if not whole.endswith("-->"):
                    raise MalformedXml("a comment that is not closed")
                return "\n" * whole.count("\n")
            case "declaration":
                return "\n" * whole.count("\n")
            case "backslash":
                return "\\&lt;" if whole == "\\<" and backslashes else whole
            case "ampersand":
                return "&amp;"
            case _:
                return whole

    return _LIBERTIES.sub(replaced, text)


def as_objects(elements: list[Element], text: str = "", attributes: dict[str, str] | None = None) -> dict[str, Any]:
    """Elements as JSON: one key for each name, a list where a name comes more than once; attributes as `@name`; text beside
    attributes or children as `#text`; an empty element is null."""
    found: dict[str, Any] = {f"@{name}": value for name, value in (attributes or {}).items()}
    repeated: set[str] = set()
    for element in elements:
        value: Any = element.text or None
        if element.children or element.attributes:
            value = as_objects(element.children, element.text, element.attributes)
        if element.name not in found:
            found[element.name] = value
        elif element.name in repeated:
            found[element.name].append(value)
        else:
            found[element.name] = [found[element.name], value]
            repeated.add(element.name)
    if text:
        found["#text"] = text
    return found
