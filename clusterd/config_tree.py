"""ossec.conf as a tree of elements with line numbers: what the standard tree builders do not keep."""

import re
from typing import Any
from xml.sax.handler import ContentHandler

import msgspec
from defusedxml import sax

_DECLARATION = re.compile(rb"<\?xml[^>]*\?>")


class Element(msgspec.Struct):
    """An XML element: its line, its own text, its children."""

    name: str
    line: int
    text: str = ""
    children: list["Element"] = msgspec.field(default_factory=list)

    def last(self, name: str) -> "Element | None":
        return next((child for child in reversed(self.children) if child.name == name), None)


class _TreeBuilder(ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.top = Element("", 0)
        self._stack = [self.top]
        self._locator: Any = None

    def setDocumentLocator(self, locator: Any) -> None:
        self._locator = locator

    def startElement(self, name: str, attrs: Any) -> None:
        element = Element(name, self._locator.getLineNumber())
        self._stack[-1].children.append(element)
        self._stack.append(element)

    def endElement(self, name: str) -> None:
        self._stack.pop()

    def characters(self, content: str) -> None:
        self._stack[-1].text += content


def parse_tree(data: bytes) -> Element:
    """The file as one tree: it may have several roots, which XML does not allow. Raises SAXException and its kin."""
    builder = _TreeBuilder()
    plain = _DECLARATION.sub(lambda match: b" " * len(match[0]), data)
    sax.parseString(b"<root>" + plain + b"</root>", builder, forbid_dtd=True)
    return builder.top.children[0]
