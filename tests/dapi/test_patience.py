"""Who asks for a function waits longer than those who execute it let it wait, whatever is configured."""

from itertools import product

import msgspec
import pytest

from clusterd.dapi.protocol.patience import MARGIN_S, asker_waits_s, begins_within_s, node_answers_s
from clusterd.settings import Settings


@pytest.mark.parametrize("complete", [False, True])
def test_a_change_begins_while_its_asker_waits_whatever_the_time_outs_are(complete: bool) -> None:
    base = Settings("/")
    for node_s, whole_s, own_s, asked_s in product((0.5, 1, 20, 600), (1, 8, 200, 3600), (0.1, 10, 3600), (1, 10, 100)):
        settings = msgspec.structs.replace(
            base,
            communication=msgspec.structs.replace(
                base.communication, timeout_cluster_request_s=node_s, timeout_dapi_request_s=whole_s
            ),
            clusterd=msgspec.structs.replace(base.clusterd, request_timeout_s=own_s),
        )
        waits_s = asker_waits_s(settings, asked_s, wait_for_complete=complete)
        begins_s = begins_within_s(settings, asked_s, wait_for_complete=complete)
        assert waits_s - begins_s >= min(MARGIN_S, whole_s / 2), (node_s, whole_s, own_s, asked_s)
        answers_s = node_answers_s(settings, asked_s, wait_for_complete=complete)
        assert answers_s is None if complete else answers_s is not None
        if answers_s is not None and waits_s < whole_s:
            assert waits_s - answers_s >= MARGIN_S + node_s, "a late node is given up while the asker waits"
