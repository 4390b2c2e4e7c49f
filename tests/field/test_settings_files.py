"""cluster.json and the internal options in odd forms: read, or refused with the place; never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.config.loading import Loaded, load
from clusterd.config.problem import Problem
from tests.conftest import KEY
from tests.sizes import examples

CONF = f"<ossec_config><cluster><key>{KEY}</key><nodes><node>10.0.0.1</node></nodes></cluster></ossec_config>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ossec.conf").write_text(CONF)
    return tmp_path


def with_json(root: Path, data: bytes) -> Loaded:
    (root / "etc" / "cluster.json").write_bytes(data)
    return load(str(root))


def problem_of(root: Path, data: bytes) -> Problem:
    found = with_json(root, data)
    assert found.settings is None
    return found.problems[0]


@pytest.mark.parametrize(
    "data",
    [
        b'\xef\xbb\xbf{"clusterd": {"watch": false}}',
        b'{\r\n"clusterd":\r\n{"watch": false}}',
        b'{"clusterd":{"watch":false}}\n\n',
    ],
)
def test_cluster_json_with_a_mark_or_other_line_ends_is_read(root: Path, data: bytes) -> None:
    found = with_json(root, data)
    assert found.settings is not None
    assert found.settings.clusterd.watch is False


@pytest.mark.parametrize(
    ("data", "where", "text"),
    [
        (b"", "line 1", "not JSON"),
        (b'{\n"a": "\xff"}', "line 2", "no UTF-8"),
        ("{}".encode("utf-16"), "line 1", "no UTF-8"),
        (b"{}\0", "line 1", "not JSON"),
        (b"// x\n{}", "line 1", "not JSON"),
        (b"[" * 200_000, "", "nested too deeply"),
        (b'{"a": "\\ud800"}', "", "half a character"),
        (
            b'{"intervals": {"worker": {"keep_alive": ' + b"9" * 400 + b"}}}",
            "intervals.worker.keep_alive",
            "not allowed",
        ),
        (
            b'{"intervals": {"worker": {"keep_alive": ' + b"9" * 9000 + b"}}}",
            "intervals.worker.keep_alive",
            "not allowed",
        ),
        (b'{"intervals": {"worker": {"keep_alive": NaN}}}', "intervals.worker.keep_alive", "not allowed"),
        (b'{"clusterd": {"owner": "a\\u0000"}}', "clusterd.owner", "not allowed"),
        (b'{"files": {"etc/x/": {"files": ["a\\u0000"]}}}', "files.etc/x/.files", "not allowed"),
        (b'{"clusterd": {"limits": ' + b" " * (5 << 20), "", "larger than"),
    ],
    ids=range(13),
)
def test_invalid_cluster_json_is_refused_with_the_place(root: Path, data: bytes, where: str, text: str) -> None:
    problem = problem_of(root, data)
    assert problem.where == where
    assert text in problem.text


def test_cluster_json_that_is_no_file_is_refused(root: Path) -> None:
    (root / "etc" / "cluster.json").mkdir()
    assert "cannot be read" in load(str(root)).problems[0].text


KEYS = st.sampled_from(
    [
        "intervals",
        "worker",
        "master",
        "communication",
        "files",
        "clusterd",
        "limits",
        "tls",
        "api",
        "force",
        "caps",
        "owner",
    ]
    + [
        "keep_alive",
        "process_pool_size",
        "max_zip_size",
        "compress_level",
        "enabled",
        "cert",
        "etc/",
        "etc/shared/",
        "permissions",
    ]
    + ["version", "store", "links", "handshakes", "excluded_files", "\0", "\ud800", ""]
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(10**300, 10**320), st.floats(), st.text(max_size=9), KEYS
)


@pytest.mark.slow
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        LEAVES,
        lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(KEYS, below, max_size=5)),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_refused(root: Path, value: Any) -> None:
    found = with_json(root, json.dumps(value).encode())
    assert (found.settings is None) == bool(found.problems)
    for problem in (*found.problems, *found.warnings):
        assert str(problem).encode()


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(root: Path, data: bytes) -> None:
    (root / "etc" / "local_internal_options.conf").write_bytes(data)
    found = with_json(root, data)
    assert (found.settings is None) == bool(found.problems)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfwazuh_clusterd.debug=2",
        b"# x\r\nwazuh_clusterd.debug=2\r\n",
        b"wazuh_clusterd.debug=2",
        b"\0\xff\nwazuh_clusterd.debug = 2\n",
        b"wazuh_clusterd.debug=1\nwazuh_clusterd.debug=2\n",
        b"x" * 1_000_000 + b"\nwazuh_clusterd.debug=2\n",
        b"wazuh_clusterd.debug=2\nother=\x85\x0c1\n",
    ],
    ids=range(7),
)
def test_internal_options_in_an_odd_form_are_read(root: Path, data: bytes) -> None:
    (root / "etc" / "local_internal_options.conf").write_bytes(data)
    found = load(str(root))
    assert found.settings is not None
    assert found.settings.log_level == 2
    assert found.warnings == []
