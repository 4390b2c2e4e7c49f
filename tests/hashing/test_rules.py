import pytest

from clusterd.settings import DEFAULT_RULES
from hashing.atomic import temporary_name
from hashing.rules import MAX_DEPTH, NAME_BYTES, PATH_BYTES, ItemRule, Rules, allowed, is_too_deep, item_of, path_ok


@pytest.mark.parametrize(
    "path",
    ["a", "etc/client.keys", "etc/lists/with space", "etc/lists/größe", "a/..b/c", "a/...", ".x", "x" * 255, "a\nb"],
)
def test_path_of_a_file_below_the_root_is_fine(path: str) -> None:
    assert path_ok(path) is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("..", "leads upwards"),
        ("etc/../../passwd", "leads upwards"),
        ("etc/rules/..", "leads upwards"),
        ("./etc/x", "is not normalised"),
        ("etc/./x", "is not normalised"),
        ("etc//x", "is not normalised"),
        ("etc/rules/", "is not normalised"),
        ("etc/x\0.xml", "holds a NUL byte"),
        ("etc/\udcff", "is not UTF-8"),
        ("x" * 256, "has a name of more than 255 bytes"),
        ("ö" * 128, "has a name of more than 255 bytes"),
        ("a/" * 2048 + "a", "has more than 4096 bytes"),
        ("etc/lists/a|@@//@@|b", "is not normalised"),
        ("etc/lists/a|//@@//|b", "is not normalised"),
    ],
)
def test_path_that_could_lead_elsewhere_is_refused_with_its_reason(path: str, reason: str) -> None:
    assert path_ok(path) == reason
    assert allowed(DEFAULT_RULES, "etc/lists/", path) == reason


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("etc/client.keys", "etc/"),
        ("etc/ossec.conf", None),
        ("etc/internal_options.conf", None),
        ("etc/rules/a.xml", "etc/rules/"),
        ("etc/rules/sub/deep/a.xml", "etc/rules/"),
        ("etc/rules/client.keys", "etc/rules/"),
        ("etc/shared/ar.conf", None),
        ("etc/shared/default/ar.conf", None),
        ("etc/shared/default/x.merged", "etc/shared/"),
        ("etc/rules/x.xml~", None),
        ("etc/rules/.local.swp", None),
        ("etc/lists/" + temporary_name("x", "plan1-0"), None),
        ("var/multigroups/c7c6e9aa/merged.mg", "var/multigroups/"),
        ("var/multigroups/c7c6e9aa/other.txt", None),
        ("queue/db/global.db", None),
        ("etc", None),
    ],
)
def test_item_of_a_path_follows_the_rules(path: str, key: str | None) -> None:
    item = item_of(DEFAULT_RULES, path)
    assert (item.key if item else None) == key


@pytest.mark.parametrize(
    ("item", "path", "reason"),
    [
        ("etc/rules/", "etc/rules/a.xml", None),
        ("etc/", "etc/client.keys", None),
        ("etc/", "etc/ossec.conf", "is not one of the files of etc/"),
        ("etc/", "etc/sub/client.keys", "is not directly in etc/"),
        ("etc/", "etc/rules/client.keys", "is not directly in etc/"),
        ("etc/lists/", "etc/rules/a.xml", "is not in etc/lists/"),
        ("etc/lists/", "etc/listsx", "is not in etc/lists/"),
        ("etc/shared/", "etc/shared/ar.conf", "has an excluded name"),
        ("etc/rules/", "etc/rules/a.xml.tmp", "has an excluded extension"),
        ("queue/", "queue/db/x", "names the unknown cluster_item_key 'queue/'"),
        ("", "etc/rules/a.xml", "names the unknown cluster_item_key ''"),
    ],
)
def test_only_files_of_the_item_they_name_are_allowed(item: str, path: str, reason: str | None) -> None:
    assert allowed(DEFAULT_RULES, item, path) == reason


def test_of_two_items_that_describe_a_file_the_longer_key_has_it() -> None:
    rules = Rules(
        (
            ItemRule("etc/", ("all",), True, 0o640),
            ItemRule("etc/shared/", ("all",), False, 0o660),
        )
    )
    assert allowed(rules, "etc/", "etc/shared/a") == "belongs to etc/shared/"
    assert allowed(rules, "etc/shared/", "etc/shared/a") is None
    assert allowed(rules, "etc/", "etc/shared/sub/a") is None


def test_what_a_scan_enters_is_what_a_path_may_have() -> None:
    deepest = "/".join(["etc", "rules", *["d"] * (MAX_DEPTH - 2)])
    assert not is_too_deep(deepest)
    assert path_ok(f"{deepest}/x") is None
    assert is_too_deep(f"{deepest}/d")
    assert path_ok(f"{deepest}/d/x") == "is more than 64 directories deep"


def test_directory_is_entered_only_if_the_longest_name_in_it_is_a_path() -> None:
    def of(size: int) -> str:
        parts = "/".join(["d" * 199] * 40)
        return parts[: size - 1] + "d"

    longest = of(PATH_BYTES - NAME_BYTES - 1)
    assert not is_too_deep(longest)
    assert path_ok(f"{longest}/{'n' * NAME_BYTES}") is None
    longer = of(PATH_BYTES - NAME_BYTES)
    assert is_too_deep(longer)
    assert path_ok(f"{longer}/{'n' * NAME_BYTES}") == f"has more than {PATH_BYTES} bytes"
