"""Groups and their files (dapi.md 5.3), over a real tree and a real store."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.dapi.files import group_tree
from clusterd.dapi.functions import groups
from tests.contracts.helpers import add_agent, add_agents, some
from tests.dapi.agent_node import AgentNode, agent_node, codes
from tools.rig.peer import wait_until

NAMES = ("..", ".", "all", "", "a/b", "../x", "a b", "a" * 256, "a\0", "a\n", "ä")


@pytest.fixture(scope="module")
def shared_node() -> Iterator[AgentNode]:
    with agent_node() as made:
        yield made


@pytest.fixture
def node(shared_node: AgentNode) -> AgentNode:
    """A node with `default` and the group `web`, which has files but no agents."""
    shared = shared_node.root / "etc/shared"
    shared_node.items("delete_groups")
    for left in shared.iterdir():
        if left.name != "default":
            left.unlink()
    shared_node.db.command("global sql delete from agent where id > 0")
    shared_node.answer("create_group", group_id="web")
    (shared / "web/merged.mg").write_bytes(b"merged")
    (shared / "ar.conf").write_bytes(b"restart0")
    return shared_node


def shared(node: AgentNode) -> Path:
    return node.root / "etc/shared"


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def known(node: AgentNode) -> set[str]:
    return {row["name"] for row in json.loads(node.db.command("global select-groups"))}


# ---- list ------------------------------------------------------------------------------------------------------------


def test_groups_have_counts_and_hashes(node: AgentNode) -> None:
    add_agents(node.db, 1, 2)
    node.db.command(
        'global set-agent-groups {"mode":"append","data":[{"id":1,"groups":["web"]},{"id":2,"groups":["web"]}]}'
    )
    found = node.items("get_agent_groups")
    template = (shared(node) / "web/agent.conf").read_bytes()
    default, web = found.affected
    # The store may have given the empty group its merged.mg by now.
    assert (default["name"], default["count"], "configSum" in default) == ("default", 0, False)
    assert web == {"name": "web", "count": 2, "mergedSum": md5(b"merged"), "configSum": md5(template)}
    sha = node.items("get_agent_groups", hash_algorithm="sha256", group_list=["web"], select=["mergedSum"]).affected
    assert sha == [{"name": "web", "mergedSum": hashlib.sha256(b"merged").hexdigest()}]
    assert node.code("get_agent_groups", hash_algorithm="shake_128") == 1000


def test_groups_are_sorted_searched_and_cut(node: AgentNode) -> None:
    for name in ("a", "B", "c"):
        node.answer("create_group", group_id=name)
    assert [group["name"] for group in node.items("get_agent_groups").affected] == ["a", "B", "c", "default", "web"]
    found = node.items(
        "get_agent_groups", sort_by=["name"], sort_ascending=False, offset=1, limit=2, q="name!=web", select=["name"]
    )
    assert (found.affected, found.total_affected) == ([{"name": "c"}, {"name": "B"}], 4)
    assert [group["name"] for group in node.items("get_agent_groups", search_text="EB").affected] == ["web"]
    assert node.code("get_agent_groups", sort_by=["nothing"]) == 1403


def test_groups_that_do_not_exist_are_failed_items(node: AgentNode) -> None:
    (shared(node) / "file").write_text("")
    (shared(node) / "link").symlink_to("/etc")
    found = node.items("get_agent_groups", group_list=["web", "file", "link", "nowhere", ".."])
    assert [group["name"] for group in found.affected] == ["web"]
    assert codes(found) == dict.fromkeys(["file", "link", "nowhere", ".."], 1710)


# ---- make, delete ----------------------------------------------------------------------------------------------------


def test_new_group_is_a_directory_with_the_template_and_known_at_once(node: AgentNode) -> None:
    (shared(node) / "agent-template.conf").write_text("<agent_config>new</agent_config>\n")
    assert "message" in node.answer("create_group", group_id="fresh")
    directory = shared(node) / "fresh"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in directory.iterdir()] == ["agent.conf"]
    assert (directory / "agent.conf").read_text() == "<agent_config>new</agent_config>\n"
    assert (directory / "agent.conf").stat().st_mode & 0o777 == 0o660
    assert "fresh" in known(node)


def test_group_without_a_template_has_an_empty_configuration(node: AgentNode) -> None:
    assert (shared(node) / "web/agent.conf").read_text() == group_tree.EMPTY_CONFIGURATION


def test_group_that_cannot_be_made_leaves_nothing(node: AgentNode) -> None:
    before = sorted(os.listdir(node.root / "etc")), sorted(os.listdir(shared(node)))
    for name in NAMES:
        assert node.code("create_group", group_id=name) == 1722
    assert node.code("create_group", group_id="web") == 1711
    assert node.code("create_group", group_id="ar.conf") == 1713
    (shared(node) / "agent-template.conf").symlink_to("/etc/passwd")
    assert node.code("create_group", group_id="x") == 1006
    (shared(node) / "agent-template.conf").unlink()
    assert (sorted(os.listdir(node.root / "etc")), sorted(os.listdir(shared(node)))) == before


def test_deleted_group_is_gone_and_its_agents_are_in_default(node: AgentNode) -> None:
    add_agent(node.db, 1)
    node.db.command('global set-agent-groups {"mode":"override","data":[{"id":1,"groups":["web"]}]}')
    (shared(node) / "web/sub").mkdir()
    (shared(node) / "web/sub/file").write_text("x")
    outside = node.root / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "kept").write_text("x")
    (shared(node) / "web/out").symlink_to(outside)
    (shared(node) / "link").symlink_to(outside)
    found = node.items("delete_groups", group_list=["web", "default", "link", "..", "nowhere"])
    assert found.affected == ["web"]
    assert codes(found) == {"default": 1712, "link": 1710, "..": 1710, "nowhere": 1710}
    assert not (shared(node) / "web").exists()
    assert (outside / "kept").exists()
    assert some(node.db, 1, "group", "group_sync_status") == ("default", "syncreq")
    # The store may be looking at the directories itself at that moment.
    wait_until(lambda: "web" not in known(node), 60, "the database has forgotten the group")


def test_all_groups_are_all_but_default(node: AgentNode) -> None:
    node.answer("create_group", group_id="two")
    found = node.items("delete_groups")
    assert (found.affected, found.failed) == (["two", "web"], [])
    assert [entry.name for entry in shared(node).iterdir() if entry.is_dir()] == ["default"]


# ---- files -----------------------------------------------------------------------------------------------------------


def test_files_of_a_group_are_listed_with_the_one_of_all_groups(node: AgentNode) -> None:
    (shared(node) / "web/link").symlink_to("/etc/passwd")
    found = node.items("get_group_files", group_list=["web"])
    assert [file["filename"] for file in found.affected] == ["agent.conf", "ar.conf", "merged.mg"]
    assert found.affected[1:] == [
        {"filename": "ar.conf", "hash": md5(b"restart0")},
        {"filename": "merged.mg", "hash": md5(b"merged")},
    ]
    page = node.items("get_group_files", group_list=["web"], search_text="conf", limit=1, offset=1, select=["hash"])
    assert (page.affected, page.total_affected) == ([{"filename": "ar.conf", "hash": md5(b"restart0")}], 2)
    assert node.code("get_group_files", group_list=["nowhere"]) == 1710
    assert node.code("get_group_files", group_list=[".."]) == 1710


def test_file_of_a_group_is_shown_unchanged(node: AgentNode) -> None:
    (shared(node) / "web/list.json").write_text('{"not": "parsed"}')
    assert node.answer("get_file_conf", group_list=["web"], filename="list.json", raw=True) == {
        "data": '{"not": "parsed"}'
    }
    assert node.answer("get_file_conf", group_list=["web"], filename="ar.conf", raw=True) == {"data": "restart0"}


CONFIGURATION = """<agent_config os="Linux" name="a|b">
  <localfile><location>/var/log/linux.log</location><log_format>syslog</log_format></localfile>
  <client_buffer><disabled>no</disabled></client_buffer>
</agent_config>
<agent_config><localfile><location>a</location></localfile><localfile><location>b</location></localfile></agent_config>
"""
POLICY = """# Comment
$php.ini=/etc/php.ini,/var/www/conf/php.ini;
[PHP - Register globals are enabled] [any] [http://example.org]
f:$php.ini -> r:^register_globals = On;

[Second] [all required] []
p:nc;
d:/tmp -> ^x$;
"""


@pytest.mark.parametrize(
    ("name", "form", "text", "expected"),
    [
        (
            "agent.conf",
            None,
            CONFIGURATION,
            {
                "total_affected_items": 2,
                "affected_items": [
                    {
                        "filters": {"os": "Linux", "name": "a|b"},
                        "config": {
                            "localfile": [{"location": "/var/log/linux.log", "log_format": "syslog"}],
                            "client_buffer": {"disabled": "no"},
                        },
                    },
                    {"filters": {}, "config": {"localfile": [{"location": "a"}, {"location": "b"}]}},
                ],
            },
        ),
        (
            "other.txt",
            "conf",
            "<agent_config/>",
            {"total_affected_items": 1, "affected_items": [{"filters": {}, "config": {}}]},
        ),
        ("agent.conf", None, "", {"total_affected_items": 0, "affected_items": []}),
        (
            "rootkit_files.txt",
            None,
            "# Comment\n\ntmp/mcliZokhb   ! Bash door ::/rootkits/bashdoor.php\n*/x\n",
            [
                {"filename": "tmp/mcliZokhb", "name": "Bash door", "link": "/rootkits/bashdoor.php"},
                {"filename": "*/x", "name": "", "link": ""},
            ],
        ),
        (
            "rootkit_trojans.txt",
            None,
            "ls  !bash|^/bin/sh!\n/etc/hosts !viruslist\\.ru!Anti-virus site!",
            [
                {"filename": "ls", "name": "bash|^/bin/sh", "description": ""},
                {"filename": "/etc/hosts", "name": "viruslist\\.ru", "description": "Anti-virus site!"},
            ],
        ),
        (
            "cis_debian_linux_rcl.txt",
            None,
            POLICY,
            {
                "vars": {"php.ini": "/etc/php.ini,/var/www/conf/php.ini"},
                "controls": [
                    {
                        "name": "PHP - Register globals are enabled",
                        "condition": "any",
                        "reference": "http://example.org",
                        "checks": ["f:$php.ini -> r:^register_globals = On;"],
                    },
                    {
                        "name": "Second",
                        "condition": "all required",
                        "reference": "",
                        "checks": ["p:nc;", "d:/tmp -> ^x$;"],
                    },
                ],
            },
        ),
    ],
)
def test_file_of_a_group_is_shown_as_objects(
    node: AgentNode, name: str, form: str | None, text: str, expected: object
) -> None:
    (shared(node) / "web" / name).write_text(text)
    given = {} if form is None else {"type_conf": form}
    assert node.answer("get_file_conf", group_list=["web"], filename=name, **given) == {"data": expected}


def test_file_that_is_no_object_is_refused_and_named(node: AgentNode) -> None:
    (shared(node) / "web/agent.conf").write_text("<agent_config><localfile></agent_config>")
    assert node.code("get_file_conf", group_list=["web"], filename="agent.conf") == 1113
    for name in ("ar.conf", "merged.mg"):
        assert node.code("get_file_conf", group_list=["web"], filename=name) == 1006
    assert node.code("get_file_conf", group_list=["web"], filename="ar.conf", type_conf="other") == 1000


def test_file_outside_of_the_group_is_1006(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
    (node.root / "etc/client.keys").write_text("")
    (shared(node) / "web/link").symlink_to("/etc/passwd")
    (shared(node) / "web/sub").mkdir()
    names = (
        "",
        ".",
        "..",
        "../ar.conf",
        "../../client.keys",
        "link",
        "sub",
        "nothing",
        "a\0b",
        "x" * 300,
        "/etc/passwd",
    )
    for name in names:
        assert node.code("get_file_conf", group_list=["web"], filename=name, raw=True) == 1006
    assert node.code("get_file_conf", group_list=["../shared/web"], filename="agent.conf", raw=True) == 1710
    monkeypatch.setattr(groups, "LARGEST_FILE", 5)
    assert node.code("get_file_conf", group_list=["web"], filename="merged.mg", raw=True) == 1006
