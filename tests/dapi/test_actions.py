"""One table has the names of permissions, and every function takes its own from there."""

from pathlib import Path

import clusterd
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol import actions
from clusterd.dapi.protocol.permissions import Need

TABLE = {value for value in vars(actions).values() if isinstance(value, Need)} | {
    need for files in actions.FILES.values() for need in (files.read, files.read_all, files.update, files.delete)
}


def test_every_need_of_a_function_is_in_the_table_and_the_other_way_round() -> None:
    used = {need for function in FUNCTIONS for need in function.needs}
    assert used - TABLE == set()
    assert TABLE - used <= {files.read_all for files in actions.FILES.values()}


def test_no_other_file_names_an_action() -> None:
    package = Path(clusterd.__file__).parent
    words = {need.action for need in TABLE}
    naming = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(f'"{word}"' in path.read_text(encoding="utf-8") for word in words)
    }
    assert naming == {"dapi/protocol/actions.py", "dapi/functions/authentication.py"}, "policies are of known actions"


def test_policies_for_workers_name_actions_of_the_table() -> None:
    from clusterd.dapi.functions.authentication import POLICIES

    assert set(POLICIES) <= {need.action for need in TABLE}
