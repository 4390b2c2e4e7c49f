"""Groups by the API: directories, members and files, with a real store behind (dapi.md 5.3)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.dapi.execution import run
from clusterd.dapi.items import Items
from clusterd.dapi.request import ApiRequest, encode_request
from clusterd.settings import Settings
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import WireCallable, WireException, WireResult
from tests.store.lone_store import lone_store
from tools.rig.peer import wait_until


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("groups")
    with lone_store(root) as store, BlockingDatabase(str(root)) as database:
        (root / "etc/shared/agent-template.conf").write_text("<agent_config>template</agent_config>\n")
        (root / "etc/client.keys").write_text("".join(f"{n:03d} a{n} any {'0' * 64}\n" for n in range(1, 41)))
        for n in range(1, 40):
            database.ask(f'global insert-agent {{"id":{n},"name":"a{n}","date_add":1700000000}}')
        yield store.root


@pytest.fixture
def database(root: Path) -> Iterator[BlockingDatabase]:
    with BlockingDatabase(str(root)) as found:
        yield found


def called(root: Path, name: str, **arguments: Any) -> Any:
    request = ApiRequest(f=WireCallable(name, "wazuh.agent", name), f_kwargs=arguments)
    return run(encode_request(request), Settings(root=str(root)), serves_store=True)


def items(answer: Any) -> Items:
    assert isinstance(answer, WireResult), answer
    return Items.of_wire(answer)


def failed(answer: Any) -> dict[int, list[Any]]:
    return {error.code: ids for error, ids in items(answer).failed}


def code(answer: Any) -> int:
    assert isinstance(answer, WireException), answer
    return answer.code


def groups_of(database: BlockingDatabase, number: int) -> str:
    return str(database.rows('select "group" as found from agent where id = ?', [number])[0].get("found", ""))


def test_group_is_made_from_the_template_and_can_be_used_at_once(root: Path, database: BlockingDatabase) -> None:
    answer = called(root, "create_group", group_id="web")
    assert answer.fields["result"] == {"message": "Group 'web' created."}
    directory = root / "etc/shared/web"
    assert (directory / "agent.conf").read_text() == "<agent_config>template</agent_config>\n"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "agent.conf").stat().st_mode & 0o777 == 0o660
    assert items(called(root, "assign_agents_to_group", group_list=["web"], agent_list=["001"])).affected == ["001"]
    assert groups_of(database, 1).split(",")[-1] == "web"


@pytest.mark.parametrize("name", ["", ".", "..", "all", "a/b", "../x", "a b", "ä", "x" * 256, "a\0b"])
def test_names_that_are_none_are_1722(root: Path, name: str) -> None:
    before = sorted(path.name for path in (root / "etc/shared").iterdir())
    assert code(called(root, "create_group", group_id=name)) == 1722
    assert sorted(path.name for path in (root / "etc/shared").iterdir()) == before


def test_group_or_file_that_is_there_is_not_overwritten(root: Path) -> None:
    (root / "etc/shared/afile").write_text("x")
    assert code(called(root, "create_group", group_id="default")) == 1711
    assert code(called(root, "create_group", group_id="afile")) == 1713
    assert (root / "etc/shared/afile").read_text() == "x"
    (root / "etc/shared/afile").unlink()


def test_deleting_takes_the_directory_and_sends_agents_to_default(root: Path, database: BlockingDatabase) -> None:
    called(root, "create_group", group_id="gone")
    called(root, "assign_agents_to_group", group_list=["gone"], agent_list=["002"], replace=True)
    assert groups_of(database, 2) == "gone"
    # The store deletes a group whose directory it has seen.
    wait_until(lambda: bool(database.rows("select 1 as n from clusterd_seen where name = 'gone'")), 10, "it is seen")
    answer = called(root, "delete_groups", group_list=["gone", "default", "nothing"])
    assert items(answer).affected == ["gone"]
    assert failed(answer) == {1712: ["default"], 1710: ["nothing"]}
    assert not (root / "etc/shared/gone").exists()
    assert not list((root / "queue/cluster/.clusterd").iterdir())
    wait_until(lambda: groups_of(database, 2) == "default", 15, "the agent is in default")


def test_link_to_a_directory_is_no_group(root: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    link = root / "etc/shared/linked"
    link.symlink_to(tmp_path / "precious")
    try:
        assert failed(called(root, "delete_groups", group_list=["linked"])) == {1710: ["linked"]}
        assert (tmp_path / "precious").is_dir()
    finally:
        link.unlink()


def test_assigning_says_what_became_of_each_agent(root: Path, database: BlockingDatabase) -> None:
    called(root, "create_group", group_id="db")
    called(root, "assign_agents_to_group", group_list=["db"], agent_list=["011"])
    answer = called(root, "assign_agents_to_group", group_list=["db"], agent_list=["010", "011", "000", "777"])
    assert items(answer).affected == ["010"]
    assert failed(answer) == {1751: ["011"], 1703: ["000"], 1701: ["777"]}
    assert database.rows("select group_sync_status as word from agent where id = 10") == [{"word": "syncreq"}]
    assert code(called(root, "assign_agents_to_group", group_list=["nothing"], agent_list=["010"])) == 1710
    called(root, "assign_agents_to_group", group_list=["default"], agent_list=["010"], replace=True)
    assert groups_of(database, 10) == "default"


def test_agent_with_128_groups_takes_no_more(root: Path, database: BlockingDatabase) -> None:
    names = [f"many{n}" for n in range(128)]
    for name in [*names, "onemore"]:
        (root / "etc/shared" / name).mkdir()
        database.ask(f"global insert-agent-group {name}")
    listed = ",".join(f'"{name}"' for name in names)
    database.ask(
        f'global set-agent-groups {{"mode":"override","sync_status":"synced","data":[{{"id":12,"groups":[{listed}]}}]}}'
    )
    answer = called(root, "assign_agents_to_group", group_list=["onemore"], agent_list=["012"])
    assert failed(answer) == {1737: ["012"]}


def test_removing_says_what_became_of_each_agent(root: Path, database: BlockingDatabase) -> None:
    called(root, "create_group", group_id="out")
    called(root, "assign_agents_to_group", group_list=["out"], agent_list=["020"], replace=True)
    called(root, "assign_agents_to_group", group_list=["default"], agent_list=["021"], replace=True)
    answer = called(root, "remove_agents_from_group", group_list=["out"], agent_list=["020", "021", "000", "999"])
    assert items(answer).affected == ["020"]
    assert failed(answer) == {1734: ["021"], 1703: ["000"], 1701: ["999"]}
    assert groups_of(database, 20) == "default"
    assert failed(called(root, "remove_agents_from_group", group_list=["default"], agent_list=["020"])) == {
        1745: ["020"]
    }
    assert code(called(root, "remove_agent_from_group", group_list=["out"], agent_list=["020"])) == 1734
    called(root, "assign_agents_to_group", group_list=["out"], agent_list=["020"])
    answer = called(root, "remove_agent_from_group", group_list=["out"], agent_list=["020"])
    assert answer.fields["result"]["message"] == "Agent '020' removed from 'out'."
    called(root, "assign_agents_to_group", group_list=["out"], agent_list=["020"])
    answer = called(root, "remove_agent_from_groups", agent_list=["020"], group_list=["out", "nothing"])
    assert items(answer).affected == ["out"]
    assert failed(answer) == {1710: ["nothing"]}


def test_groups_are_listed_with_members_and_digests(root: Path) -> None:
    called(root, "create_group", group_id="listed")
    (root / "etc/shared/listed/merged.mg").write_bytes(b"merged")
    called(root, "assign_agents_to_group", group_list=["listed"], agent_list=["030", "031"], replace=True)
    answer = called(root, "get_agent_groups", group_list=["listed", "nothing"])
    content = (root / "etc/shared/listed/agent.conf").read_bytes()
    assert items(answer).affected == [
        {
            "name": "listed",
            "count": 2,
            "mergedSum": hashlib.md5(b"merged").hexdigest(),
            "configSum": hashlib.md5(content).hexdigest(),
        }
    ]
    assert failed(answer) == {1710: ["nothing"]}
    names = [group["name"] for group in items(called(root, "get_agent_groups", select=["count"])).affected]
    assert names == sorted(names)
    assert code(called(root, "get_agent_groups", hash_algorithm="crc")) == 1723


def test_files_of_a_group(root: Path) -> None:
    called(root, "create_group", group_id="files")
    directory = root / "etc/shared/files"
    (directory / "link.conf").symlink_to(root / "etc/client.keys")
    (root / "etc/shared/ar.conf").write_text("restart-ossec0\n")
    listed = items(called(root, "get_group_files", group_list=["files"], hash_algorithm="sha256")).affected
    assert [file["filename"] for file in listed] == ["agent.conf", "ar.conf"]
    assert listed[0]["hash"] == hashlib.sha256((directory / "agent.conf").read_bytes()).hexdigest()
    text = called(root, "get_file_conf", group_list=["files"], filename="agent.conf", raw=True)
    assert text.fields["result"]["message"] == (directory / "agent.conf").read_text()
    for name in ("link.conf", "../../client.keys", "..", "nothing", "", "a/b"):
        assert code(called(root, "get_file_conf", group_list=["files"], filename=name, raw=True)) == 1006, name
    assert code(called(root, "get_group_files", group_list=["nothing"])) == 1710
