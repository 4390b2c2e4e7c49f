"""The decision on a hello, without a network (wire.md 1.4)."""

import pytest

from clusterd.net.hello import HelloRules, NotAdmitted, check_hello, versions_match

RULES = HelloRules("boss", "wazuh", "4.14.1", "exact")


def refusal(payload: bytes, registered: tuple[str, ...] = (), own_name: str = "") -> NotAdmitted:
    with pytest.raises(NotAdmitted) as caught:
        check_hello(payload, RULES, dict.fromkeys(registered, "10.0.0.5"), own_name)
    return caught.value


def test_a_good_hello_is_accepted_whatever_its_node_type() -> None:
    hello = check_hello(b"w1 wazuh foo 4.14.1", RULES, {})
    assert (hello.name, hello.node_type, hello.version) == ("w1", "foo", "4.14.1")


@pytest.mark.parametrize(
    ("payload", "code", "extra"),
    [
        (b"w1 wazuh worker", 1000, "not enough values to unpack (expected 4, got 3)"),
        (b"w 1 wazuh worker 4.14.1", 1000, "too many values to unpack (expected 4)"),
        (b"boss wazuh worker 4.14.1", 3029, None),
        (b"w1 other worker 4.14.1", 3030, None),
        (b"w1 wazuh worker 4.14.0", 3031, None),
    ],
)
def test_each_refusal_has_its_code(payload: bytes, code: int, extra: str | None) -> None:
    found = refusal(payload)
    assert (found.code, found.extra) == (code, extra)


def test_the_first_check_that_fails_decides() -> None:
    assert refusal(b"w1 other worker 1.0", ("w1",)).code == 3028
    assert refusal(b"boss other worker 1.0").code == 3029
    assert refusal(b"w2 other worker 1.0").code == 3030


def test_a_name_in_use_is_named_in_the_refusal() -> None:
    found = refusal(b"w1 wazuh worker 4.14.1", ("w1",))
    assert (found.code, found.extra) == (3028, "w1")


@pytest.mark.parametrize("name", ["../../stats", ".hidden", "a/b", "a\0b", "é", "x" * 129, "-\n", "-rf", "--root"])
def test_a_name_that_could_be_a_path_is_refused(name: str) -> None:
    assert refusal(f"{name} wazuh worker 4.14.1".encode()).code == 1000


def test_bytes_that_are_no_text_are_refused() -> None:
    assert refusal(b"\xff\xfe wazuh worker 4.14.1").code == 1000


@pytest.mark.parametrize("word", ["x" * 129, "a\nb"])
def test_type_and_version_are_short_printable_words(word: str) -> None:
    assert refusal(f"w1 wazuh {word} 4.14.1".encode()).code == 1000
    assert refusal(f"w1 wazuh worker {word}".encode()).code == 1000


def test_a_second_hello_under_another_name_is_refused_and_under_the_same_is_a_duplicate() -> None:
    assert refusal(b"w2 wazuh worker 4.14.1", ("w1",), "w1").code == 1000
    assert refusal(b"w1 wazuh worker 4.14.1", ("w1",), "w1").code == 3028


@pytest.mark.parametrize(
    ("payload", "both"),
    [
        (b"w1 wazu worker 4.14.1", 'cluster name "wazu", ours is "wazuh"'),
        (b"w1 wazuh worker 4.14.0", "version 4.14.0, ours is 4.14.1"),
        (b"w9 wazuh worker 4.14.1", "the node at 10.0.0.5 is connected under this name"),
    ],
)
def test_the_operator_sees_both_sides_values(payload: bytes, both: str) -> None:
    found = refusal(payload, ("w9",))
    assert found.both.startswith(both)
    assert found.node == payload.split()[0].decode()


def test_a_name_with_dots_inside_is_fine() -> None:
    assert check_hello(b"a.b-c_9 wazuh worker 4.14.1", RULES, {}).name == "a.b-c_9"


def test_the_version_rule_says_which_versions_go_together() -> None:
    assert versions_match("exact", "4.14.1", "4.14.1")
    assert not versions_match("exact", "4.14.1", "4.14.2")
    assert versions_match("minor", "4.14.1", "4.14.2")
    assert not versions_match("minor", "4.14.1", "4.15.1")
    assert not versions_match("minor", "4.1.1", "4.14.1")
    assert versions_match("any", "4.14.1", "5.0")
