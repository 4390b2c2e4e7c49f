"""The one reader of the XML-like files of the field: `ossec.conf`, rules, decoders, `agent.conf`.

These files are older than any XML parser that reads them. They have several roots, `&` and `<` stand in text as they
are, tags are written in any case, a DOCTYPE or a byte order mark comes first. This reader takes all of that as it is
meant. A doubtful structure (a tag that is never closed, or closes nothing) gives a complaint, and reading goes on; each
caller decides which complaints it accepts. Nothing is ever expanded or fetched, depth and number of elements are
bounded, nothing recurses, time is linear.
"""

import re
from collections.abc import Iterator

import msgspec

DEEPEST = 64
MOST_ELEMENTS = 200_000
"""Elements and attributes of one file."""
MOST_COMPLAINTS = 20
"""Remembered; further ones are only counted."""

_NAME = r"[^\W\d][\w:.-]*"
# A value without `<` may span lines. One with it ends on its line: a forgotten quote must not take in the next
# elements.
_VALUE = r"""(?>"(?:[^"<]*|[^"\n]*)"|'(?:[^'<]*|[^'\n]*)'|[^\s"'<>=/]+)"""
_ATTRIBUTE = rf"\s++({_NAME})\s*+=\s*+({_VALUE})"
# What is not closed runs to the end, so that a text of a million openings is looked through once and not a million
# times.
_MARKS = (
    r"<!--(?:.*?-->|.*\Z)",
    r"<!\[CDATA\[(?:.*?\]\]>|.*\Z)",
    r"<!(?i:DOCTYPE)\s[^\[<>]*(?:>|\[(?:.*?\]\s*+>|.*\Z))",
    r"<\?[^<>]*>",
    rf"</(?P<close>{_NAME})\s*+>",
    rf"<(?P<open>{_NAME})(?P<attributes>(?>{_ATTRIBUTE})*+)\s*+/?>",
)
_PLAIN = re.compile("|".join(_MARKS), re.DOTALL)
_WITH_BACKSLASHES = re.compile("|".join((r"\\[\\<]", *_MARKS)), re.DOTALL)
_ONE_ATTRIBUTE = re.compile(_ATTRIBUTE, re.DOTALL)
_ENTITY = re.compile(r"&(?:(amp|lt|gt|quot|apos)|#(\d{1,7})|#x([0-9a-fA-F]{1,6}));")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class TooMuch(Exception):
    """The file is deeper or larger than any real one; the exception's text says where."""


class Complaint(msgspec.Struct, frozen=True):
    """`at`: offset in the text of the document."""

    at: int
    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


class Element(msgspec.Struct):
    """Names of tags and attributes are in small letters. `start`, `end`: its offsets in the document. `parts`: its
    own text in pieces. `certain`: false when its end, or that of something in it, had to be guessed."""

    name: str
    line: int = 0
    start: int = 0
    end: int = 0
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    parts: list[str] = msgspec.field(default_factory=list)
    children: list["Element"] = msgspec.field(default_factory=list)
    certain: bool = True

    @property
    def text(self) -> str:
        return "".join(self.parts).strip()

    def texts(self, name: str) -> list[str]:
        """Texts of the children of this name."""
        return [child.text for child in self.children if child.name == name]

    def last(self, name: str) -> "Element | None":
        return next((child for child in reversed(self.children) if child.name == name), None)


class Document(msgspec.Struct):
    """`text`: with the line ends of Unix. `outside`: the first line with text outside of all elements, 0 for none.
    `doctype`: the line of the first DOCTYPE, 0 for none."""

    text: str
    roots: list[Element] = msgspec.field(default_factory=list)
    complaints: list[Complaint] = msgspec.field(default_factory=list)
    complained: int = 0
    outside: int = 0
    doctype: int = 0

    def sections(self, name: str) -> list[Element]:
        """The elements of this name directly below `<ossec_config>`. If there are none, those that are deeper only
        because of faults: a tag that somebody forgot to close does not hide what follows it."""
        confs = [root for root in self.roots if root.name == "ossec_config"]
        direct = [section for conf in confs for section in conf.children if section.name == name]
        if direct:
            return direct
        confs = [element for element in _reachable(self.roots) if element.name == "ossec_config"]
        hidden = [section for conf in confs for section in _reachable(conf.children) if section.name == name]
        by_place = {section.start: section for section in hidden}
        return [by_place[start] for start in sorted(by_place)]

    def complaints_in(self, element: Element) -> list[Complaint]:
        return [complaint for complaint in self.complaints if element.start <= complaint.at < element.end]


def _reachable(elements: list[Element]) -> Iterator[Element]:
    waiting = elements[::-1]
    while waiting:
        element = waiting.pop()
        yield element
        if not element.certain:
            waiting += element.children[::-1]


def text_of(data: bytes) -> str:
    """The file as text: a byte order mark is taken off, bytes that are no UTF-8 become U+FFFD. Raises ValueError for
    UTF-16."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("this file is UTF-16; save it as UTF-8")
    return data.decode("utf-8-sig", errors="replace")


def read_markup(text: str) -> Document:
    """Everything that can be made of the text. A backslash takes its meaning from a `<` behind it (`\\<` in a
    pattern is no tag), unless the text has fewer faults without that (`<match>C:\\</match>`). Raises TooMuch."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    document = _Reader(text, _WITH_BACKSLASHES).read()
    if document.complained and "\\<" in text:
        other = read_plain(text)
        if other.complained < document.complained:
            return other
    return document


def read_plain(text: str) -> Document:
    """The same for a text in which backslashes mean nothing, as in XML. Line ends must be those of Unix. Raises
    TooMuch."""
    return _Reader(text, _PLAIN).read()


class _Reader:
    def __init__(self, text: str, marks: re.Pattern[str]) -> None:
        self._text = text
        self._marks = marks
        self._document = Document(text)
        self._top = Element("")
        self._stack = [self._top]
        self._count = 0
        self._line = 1
        self._counted_to = 0

    def read(self) -> Document:
        text, begin = self._text, 0
        zero = text.find("\0")
        for mark in self._marks.finditer(text):
            whole = mark[0]
            if whole[0] == "\\":
                continue
            self._add_text(begin, mark.start())
            begin = mark.end()
            match whole[1]:
                case "/":
                    self._close(mark)
                case "!":
                    self._special(mark)
                case "?":
                    pass
                case _:
                    self._open(mark)
        self._add_text(begin, len(text))
        self._close_down_to(1, len(text), "the end of the file")
        if zero >= 0:
            self._complain(zero, text.count("\n", 0, zero) + 1, "a NUL byte; other programs read nothing behind it")
        self._document.roots = self._top.children
        return self._document

    def _add_text(self, begin: int, end: int) -> None:
        if begin == end:
            return
        chunk = self._text[begin:end]
        if len(self._stack) > 1:
            self._stack[-1].parts.append(_decoded(chunk))
        elif not self._document.outside and (stripped := chunk.lstrip()):
            self._document.outside = self._line_at(end - len(stripped))

    def _special(self, mark: re.Match[str]) -> None:
        whole, start = mark[0], mark.start()
        if whole.startswith("<!--"):
            if not whole.endswith("-->") or len(whole) < 7:
                self._complain(start, self._line_at(start), "a comment that is not closed")
        elif whole.startswith("<![CDATA["):
            if not whole.endswith("]]>"):
                self._complain(start, self._line_at(start), "a CDATA section that is not closed")
            if len(self._stack) > 1:
                self._stack[-1].parts.append(whole[9:].removesuffix("]]>"))
            else:
                self._document.outside = self._document.outside or self._line_at(start)
        else:
            if not whole.endswith(">"):
                self._complain(start, self._line_at(start), "a DOCTYPE that is not closed")
            self._document.doctype = self._document.doctype or self._line_at(start)

    def _open(self, mark: re.Match[str]) -> None:
        start, given = mark.start(), mark["attributes"]
        line = self._line_at(start)
        element = Element(mark["open"].lower(), line, start, mark.end())
        if given:
            for name, value in _ONE_ATTRIBUTE.findall(given):
                if value[0] not in "\"'":
                    self._complain(start, line, f"the value of {name} has no quotes")
                element.attributes[name.lower()] = _decoded(value[1:-1] if value[0] in "\"'" else value)
        self._count += 1 + len(element.attributes)
        if self._count > MOST_ELEMENTS:
            raise TooMuch(f"line {line}: more than {MOST_ELEMENTS} elements and attributes")
        self._stack[-1].children.append(element)
        if mark[0][-2] != "/":
            if len(self._stack) > DEEPEST:
                raise TooMuch(f"line {line}: elements nested more than {DEEPEST} deep")
            self._stack.append(element)

    def _close(self, mark: re.Match[str]) -> None:
        name, stack = mark["close"].lower(), self._stack
        for depth in range(len(stack) - 1, 0, -1):
            if stack[depth].name == name:
                if depth < len(stack) - 1:
                    self._close_down_to(depth + 1, mark.start(), f"</{name}> in line {self._line_at(mark.start())}")
                    stack[depth].certain = False
                stack.pop().end = mark.end()
                return
        self._complain(mark.start(), self._line_at(mark.start()), f"</{name}> closes nothing")

    def _close_down_to(self, depth: int, end: int, before: str) -> None:
        """Close the elements from this depth on, and note that their end tags are missing."""
        while len(self._stack) > depth:
            element = self._stack.pop()
            element.certain, element.end = False, end
            self._complain(element.start, element.line, f"<{element.name}> is not closed before {before}")

    def _complain(self, at: int, line: int, text: str) -> None:
        self._document.complained += 1
        if len(self._document.complaints) < MOST_COMPLAINTS:
            self._document.complaints.append(Complaint(at, line, text if len(text) <= 200 else f"{text[:200]}..."))

    def _line_at(self, offset: int) -> int:
        """Offsets must not fall from one call to the next."""
        self._line += self._text.count("\n", self._counted_to, offset)
        self._counted_to = offset
        return self._line


def _decoded(text: str) -> str:
    """With the five entities and the numbers of characters that XML has; whatever else begins with `&` is text."""
    return _ENTITY.sub(_character, text) if "&" in text else text


def _character(found: re.Match[str]) -> str:
    if found[1]:
        return _ENTITIES[found[1]]
    number = int(found[2]) if found[2] else int(found[3], 16)
    is_one = (
        number in (9, 10, 13) or 0x20 <= number < 0xD800 or 0xE000 <= number < 0xFFFE or 0x10000 <= number < 0x110000
    )
    return chr(number) if is_one else found[0]
