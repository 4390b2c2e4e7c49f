"""Every reference to the protocol in code, tests and documents leads somewhere: section, quirk, test, file."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOCOL = ROOT / "docs" / "protocol"
PLACES = ("clusterd", "ipc", "hashing", "tools", "tests", "benchmarks", "docs")
PAGES = {page.stem: page for page in PROTOCOL.glob("*.md")}
REFERENCE = re.compile(
    r"\b(wire|dapi|wdb|framework)\.md,?\s+(?:sections?\s+)?((?:\d+(?:\.\d+)*)(?:(?:,|\s+and|\s+to)\s+\d+\.\d+)*)"
)
WITHIN = re.compile(r"§(\d+(?:\.\d+)*)")
HEADING = re.compile(r"^#+ (?:Appendix )?(\d+(?:\.\d+)*|[A-Z])\b", re.M)
CODE = re.compile(r"\b([WRCDPA]\d{1,2})\b")
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def texts(*suffixes: str) -> Iterator[tuple[Path, str]]:
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*")):
            if path.suffix in suffixes and path.is_file():
                yield path, path.read_text(encoding="utf-8")
    for path in sorted(ROOT.glob("*.md")):
        if ".md" in suffixes:
            yield path, path.read_text(encoding="utf-8")


def sections(page: str) -> dict[str, str]:
    """Returns the number of each section with its text up to the next heading."""
    text = PAGES[page].read_text(encoding="utf-8")
    marks = list(HEADING.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {mark[1]: text[mark.start() : end] for mark, end in zip(marks, ends, strict=True)}


SECTIONS = {page: sections(page) for page in ("wire", "dapi", "wdb", "framework")}


def leads_somewhere(page: str, number: str) -> bool:
    """Returns whether this is a section, or a numbered point of one (13.1.6: point 6 of section 13.1)."""
    if number in SECTIONS[page]:
        return True
    section, _, point = number.rpartition(".")
    return section in SECTIONS[page] and re.search(rf"^ *{point}\. ", SECTIONS[page][section], re.M) is not None


def test_sections_that_are_named_exist() -> None:
    lost, found = [], 0
    for path, text in texts(".py", ".md"):
        for match in REFERENCE.finditer(text):
            for number in re.findall(r"\d+(?:\.\d+)*", match[2]):
                found += 1
                if not leads_somewhere(match[1], number):
                    lost.append(f"{path.relative_to(ROOT)}: {match[1]}.md {number}")
    for page in SECTIONS:
        text = PAGES[page].read_text(encoding="utf-8")
        lost += [f"{page}.md: §{number}" for number in WITHIN.findall(text) if not leads_somewhere(page, number)]
    assert not lost
    assert found > 300


def quirks() -> dict[str, str]:
    """Returns each code with the last cell of its row, which names the test."""
    rows = re.findall(r"^\| ([WRCDPA]\d+) \|.*\| ([^|]*) \|$", PAGES["quirks"].read_text(encoding="utf-8"), re.M)
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_quirks_that_are_named_exist() -> None:
    known = quirks()
    lost = [
        f"{path.relative_to(ROOT)}: {code}"
        for path, text in texts(".py")
        for comment in re.findall(r'#.*|"""[\s\S]*?"""', text)
        for code in CODE.findall(comment)
        if code not in known
    ]
    assert not lost


def test_every_quirk_names_a_test() -> None:
    assert [code for code, cell in quirks().items() if not TEST.fullmatch(cell)] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_tests_and_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lost = []
    for file, name in TEST.findall(text):
        path = ROOT / (file if file.startswith("tests/") else f"tests/{file}")
        if not path.is_file() or not re.search(rf"^\s*(?:async )?def {name}\b", path.read_text(encoding="utf-8"), re.M):
            lost.append(f"{file}::{name}")
    if page.parent != PROTOCOL:  # the protocol names files of a manager
        for file in re.findall(r"`((?:clusterd|ipc|hashing|tools|tests|benchmarks|contrib|docs)/[\w/.-]+\.\w+)`", text):
            if not (ROOT / file).exists() and not file.startswith("benchmarks/results/"):  # made by a run
                lost.append(file)
    for link in LINK.findall(text):
        if not (page.parent / link).exists():
            lost.append(link)
    assert not lost


def test_the_table_of_mutants_names_files_and_tests_that_exist() -> None:
    """A row that says "the same" means the file of tests of the row before."""
    table = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| mutation | test |")[2].partition("\n\n")[0]
    )
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.M)
    lost, at = [], ""
    for mutated, tests in rows:
        for file in re.findall(r"`([\w/]+\.py)`", mutated):
            if not any((ROOT / place / file).is_file() for place in (".", "clusterd")):
                lost.append(file)
        for word in re.findall(r"`([^`]+)`", tests):
            if word.endswith(".py"):
                at = word
            found = (ROOT / at).read_text(encoding="utf-8") if (ROOT / at).is_file() else ""
            if not found or (word != at and not re.search(rf"^(?:async )?def {word}\b", found, re.M)):
                lost.append(f"{at}: {word}")
    assert not lost
    assert len(rows) > 10
