"""Rules and decoders as documents (dapi.md 5.6): what is read of a file, what may be uploaded, and documents as JSON."""

from typing import Any

from clusterd.config.markup import Document, Element, TooMuch, read_markup

LARGEST_XML = 4 * 1024 * 1024
"""Bytes of one file; the largest of the stock ruleset has 120,000."""


class MalformedXml(Exception):
    """The text is not what rules and decoders may be; the exception's text says where and why."""


def read_ruleset(text: str) -> Document:
    """A file that is there. Its complaints are left to the caller, who may show the rest. Raises MalformedXml for more than is
    read of one file."""
    if len(text) > LARGEST_XML or len(text.encode(errors="replace")) > LARGEST_XML:
        raise MalformedXml(f"larger than {LARGEST_XML} bytes")
    try:
        return read_markup(text)
    except TooMuch as failure:
        raise MalformedXml(str(failure)) from None


def parse_ruleset(text: str) -> list[Element]:
    """The root elements of a file that is there: none for an empty one, text outside of them means nothing. Raises MalformedXml."""
    document = read_ruleset(text)
    if document.complaints:
        raise MalformedXml(str(document.complaints[0]))
    return document.roots


def check_upload(text: str) -> None:
    """Stricter than reading: whoever writes a new file can mend it. Raises MalformedXml, also for a text without any element, for
    text outside of them and for a DOCTYPE."""
    document = read_ruleset(text)
    if document.complaints:
        raise MalformedXml(str(document.complaints[0]))
    if document.doctype:
        raise MalformedXml(f"line {document.doctype}: a DOCTYPE, which means nothing here")
    if document.outside:
        raise MalformedXml(f"line {document.outside}: text outside of all elements")
    if not document.roots:
        raise MalformedXml("no elements")


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
