"""No node sends the cluster key in a configuration, and writing a shown configuration back keeps the key."""

import json
import time

import pytest

from clusterd.dapi.protocol.masking import mask_key, restore_key
from clusterd.settings import MASKED_KEY, Secret

KEY = Secret(b"c98b62a9b6169ac5f67dae55ae4a9088")
CONF = "<cluster>\n  <name>c</name>\n  <key>c98b62a9b6169ac5f67dae55ae4a9088</key>\n</cluster>\n"


@pytest.mark.parametrize("answer", [CONF, {"cluster": {"key": KEY.value.decode(), "port": 1516}}, [CONF, CONF]])
def test_no_answer_shows_the_key(answer: object) -> None:
    shown = mask_key(json.dumps(answer).encode(), KEY)
    assert KEY.value not in shown
    assert json.loads(shown) == json.loads(json.dumps(answer).replace(KEY.value.decode(), MASKED_KEY))


def test_what_was_shown_and_is_written_back_keeps_the_key() -> None:
    shown = json.loads(mask_key(json.dumps({"new_conf": CONF}).encode(), KEY))
    for text in (shown["new_conf"], shown["new_conf"].replace("<key>", "<key> \n").replace("</key>", " </key>")):
        written = json.loads(restore_key(json.dumps({"new_conf": text}).encode(), KEY))["new_conf"]
        assert "".join(written.split()) == "".join(CONF.split())


def test_another_key_and_other_stars_are_left_alone() -> None:
    for text in (CONF, "<key>another</key>", "<pass>*****</pass> <key>****</key> <key>******</key> *****"):
        given = json.dumps({"new_conf": text}).encode()
        assert restore_key(given, KEY) == given


def test_white_space_without_end_is_not_matched() -> None:
    """Sync does this on its loop."""
    given = b"<key>" + b" " * 5_000_000
    began = time.process_time()
    assert restore_key(given, KEY) == given
    assert time.process_time() - began < 0.2


def test_a_node_without_a_key_changes_nothing() -> None:
    given = json.dumps({"new_conf": "<key>*****</key>"}).encode()
    assert restore_key(given, Secret(b"")) == given
    assert mask_key(given, Secret(b"")) == given
