"""Rules and decoders as documents (dapi.md 5.6): reads files, checks uploads, turns documents into JSON."""

from typing import Any

from clusterd.config.markup import Document, Element, TooMuch, read_markup

LARGEST_XML = 4 * 1024 * 1024
"""Most bytes of one file; the largest of the stock ruleset has 120,000."""


class MalformedXml(Exception):
    """The text is not valid for rules and decoders; the exception's text tells where and why."""


def read_ruleset(text: str) -> Document:
    """Reads an existing file. The caller handles its complaints and may show the rest. Raises MalformedXml above the
    size limit of one file."""
    if len(text) > LARGEST_XML or len(text.encode(errors="replace")) > LARGEST_XML:
        raise MalformedXml(f"larger than {LARGEST_XML} bytes")
    try:
        return read_markup(text)
    except TooMuch as failure:
        raise MalformedXml(str(failure)) from None


def parse_ruleset(text: str) -> list[Element]:
    """Returns the root elements of an existing file: none for an empty one; text outside of them is ignored. Raises
    MalformedXml."""
    document = read_ruleset(text)
    if document.complaints:
        raise MalformedXml(str(document.complaints[0]))
    return document.roots


def check_upload(text: str) -> None:
    """Checks an upload. Stricter than reading, because the author of a new file can correct it. Raises MalformedXml,
    also for a text without any element, for text outside of them and for a DOCTYPE."""
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
    """Turns elements into JSON: one key for each name, a list where a name occurs more than once; attributes as
    `@name`; text beside attributes or children as `#text`; an empty element is null."""
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
