"""`global sql`: wdb.md 3.23. The statements have the shape that the agent listing of the stock tools gives them."""

import json
from collections.abc import Iterator

import pytest

from tests.contracts.helpers import LARGEST, add_agent, add_groups, add_many, put, set_groups
from tools.rig.wdb_client import WdbClient, WdbTooLong


@pytest.fixture
def agents(db: WdbClient) -> None:
    """Agents 001 to 005, of two nodes."""
    add_groups(db, "web", "linux")
    for agent_id, name, status, node, system in (
        (1, "alpha", "active", "worker1", "Ubuntu"),
        (2, "Beta", "disconnected", "worker1", "CentOS Linux"),
        (3, "gamma", "active", "worker2", "Ubuntu"),
        (4, "delta's", "active", "worker1", None),
        (5, "Epsilon", "never_connected", "unknown", None),
    ):
        add_agent(db, agent_id, name, register_ip=f"10.0.1.{agent_id}")
        put(db, agent_id, connection_status=status, node_name=node, os_name=system, version="Wazuh v4.14.1")
    put(db, 1, ip="10.0.0.1", last_keepalive=1_763_870_000)
    put(db, 0, node_name="master")
    set_groups(db, "append", 1, ["default", "web"])
    set_groups(db, "append", 2, ["web"])
    set_groups(db, "append", 3, ["linux"])


pytestmark = pytest.mark.usefixtures("agents")


def test_rows_are_compact_objects_without_nulls(db: WdbClient) -> None:
    assert db.raw("global sql select id, ip, name from agent where id in (1, 2) order by id") == (
        b'ok [{"id":1,"ip":"10.0.0.1","name":"alpha"},{"id":2,"name":"Beta"}]'
    )
    assert db.raw("global sql select null as a, null as b") == b"ok [{}]"
    assert db.raw("global sql select ip from agent where id in (2, 3)") == b"ok [{},{}]"
    assert db.raw("global sql select '' as a, 0 as b, -1 as c") == b'ok [{"a":"","b":0,"c":-1}]'


def test_no_rows_are_an_empty_array(db: WdbClient) -> None:
    assert db.raw("global sql select id from agent where id = 99") == b"ok []"
    assert db.raw("global sql update agent set name = 'x' where id = 99") == b"ok []"


def test_column_names_are_those_sqlite_reports(db: WdbClient) -> None:
    assert db.raw("global sql select count(*) from agent") == b'ok [{"count(*)":6}]'
    assert db.raw("global sql select 1+1, 'a''b'") == b"""ok [{"1+1":2,"'a''b'":"a'b"}]"""


def test_only_the_first_statement_is_executed(db: WdbClient) -> None:
    assert db.raw("global sql select 1 as n; delete from agent where id = 1; selec") == b'ok [{"n":1}]'
    assert (
        db.raw("global sql update agent set ip = 'x' where id = 2; update agent set ip = 'x' where id = 3") == b"ok []"
    )
    assert db.raw("global sql select id from agent where ip = 'x'") == b'ok [{"id":2}]'


def test_statements_that_change_or_explain_are_executed(db: WdbClient) -> None:
    assert db.raw("global sql delete from agent where id = 5") == b"ok []"
    assert db.raw("global sql insert into agent (id, name, date_add) values (6, 'zeta', 5) returning id") == (
        b'ok [{"id":6}]'
    )
    assert db.ids("get-all-agents last_id") == [1, 2, 3, 4, 6]
    assert db.raw("global sql explain query plan select * from agent").startswith(b'ok [{"id":')
    assert db.raw("global sql with x(a) as (values (1), (2)) select a from x") == b'ok [{"a":1},{"a":2}]'


def test_errors_name_sqlite_s_reason(db: WdbClient) -> None:
    before = b"err Cannot execute Global database query; "
    assert db.raw("global sql selec 1") == before + b'near "selec": syntax error'
    assert db.raw("global sql select * from nowhere") == before + b"no such table: nowhere"
    assert db.raw("global sql select unheard from agent") == before + b"no such column: unheard"


@pytest.mark.parametrize("word", ["begin", "commit", "rollback", "savepoint x", "release x", "vacuum"])
def test_words_of_transactions_harm_nothing(db: WdbClient, word: str) -> None:
    put(db, 1, ip="before")
    db.raw(f"global sql {word}")
    put(db, 1, config_sum="after")
    for _ in range(2):
        assert db.raw("global sql select ip, config_sum from agent where id = 1") == (
            b'ok [{"ip":"before","config_sum":"after"}]'
        )


@pytest.mark.parametrize("behind", ["\0", "\0; select 2", "\0;\0;"])
def test_a_statement_ends_at_a_nul(db: WdbClient, behind: str) -> None:
    assert db.raw(f"global sql select 1 as one{behind}x") == b'ok [{"one":1}]'


def test_a_page_of_the_client_is_as_long_as_fits_an_answer(db: WdbClient) -> None:
    for agent_id in range(1, 5):
        put(db, agent_id, os_uname="x" * 30_000)
    statement = "select id, os_uname from agent where id > 0 order by id"
    assert [row["id"] for row in db.page(statement, 4)] == [1, 2]
    db.command("global sql update agent set os_uname = hex(zeroblob(40000)) where id = 1")
    with pytest.raises(WdbTooLong):
        db.page(statement, 4)


# The features of the listing.


def test_active_agents_of_a_node_are_counted(db: WdbClient) -> None:
    for node, count in (("worker1", 2), ("worker2", 1), ("WORKER1", 2), ("nowhere", 0), ("master", 0)):
        answer = db.raw(
            "global sql select count(*) from (select id as 'id' from agent where (connection_status = 'active' collate "
            f"nocase) and (node_name = '{node}' collate nocase) and (id != '000' collate nocase))"
        )
        assert answer == b'ok [{"count(*)":%d}]' % count


def test_the_control_tool_lists_agents(db: WdbClient) -> None:
    fields = (
        "id as 'id', coalesce(ip,register_ip) as 'ip', connection_status as 'status', version as 'version', "
        "node_name as 'node_name', name as 'name'"
    )
    assert db.raw(f"global sql select {fields} from agent order by id asc limit 2 offset 1") == (
        b'ok [{"id":1,"ip":"10.0.0.1","status":"active","version":"Wazuh '
        b'v4.14.1","node_name":"worker1","name":"alpha"},'
        b'{"id":2,"ip":"10.0.1.2","status":"disconnected","version":"Wazuh '
        b'v4.14.1","node_name":"worker1","name":"Beta"}]'
    )
    assert db.raw(f"global sql select {fields} from agent order by id asc limit 500 offset 500") == b"ok []"


def test_requests_are_routed_by_the_node_of_an_agent(db: WdbClient) -> None:
    select = "global sql select node_name as 'node_name', id as 'id' from agent"
    assert db.raw(f"{select} where (id not in (003,000)) order by id asc limit 500 offset 0") == (
        b'ok [{"node_name":"worker1","id":1},{"node_name":"worker1","id":2},{"node_name":"worker1","id":4},'
        b'{"node_name":"unknown","id":5}]'
    )
    assert db.raw(f"{select} where (id in (003, 0001)) order by id desc") == (
        b'ok [{"node_name":"worker2","id":3},{"node_name":"worker1","id":1}]'
    )


def test_the_manager_s_name(db: WdbClient) -> None:
    (row,) = json.loads(db.command("global sql select name from agent where (id = 0)"))
    assert list(row) == ["name"]


def test_aliases_with_dots_and_capitals(db: WdbClient) -> None:
    assert db.raw(
        "global sql select os_name as 'os.name', last_keepalive as 'lastKeepAlive', `group` as 'group', "
        "date_add as 'dateAdd', register_ip as 'registerIP', manager_host as 'manager' from agent where id = 1"
    ) == (
        b'ok [{"os.name":"Ubuntu","lastKeepAlive":1763870000,"group":"default,web","dateAdd":1700000000,'
        b'"registerIP":"10.0.1.1"}]'
    )


def test_every_name_of_the_listing_has_its_column(db: WdbClient) -> None:
    names = {
        **{
            f"os.{name}": f"os_{name}"
            for name in ("name", "version", "platform", "codename", "major", "minor", "uname")
        },
        **{"os.arch": "os_arch", "os.build": "os_build", "manager": "manager_host", "dateAdd": "date_add"},
        **{"mergedSum": "merged_sum", "configSum": "config_sum", "lastKeepAlive": "last_keepalive"},
        **{"registerIP": "register_ip", "status": "connection_status", "group": "`group`"},
        **{name: name for name in ("id", "name", "version", "node_name", "internal_key", "disconnection_time")},
        **{name: name for name in ("group_config_status", "status_code")},
    }
    fields = ", ".join(f"{column} as '{name}'" for name, column in names.items())
    for column in names.values():
        if column not in (
            "id",
            "date_add",
            "last_keepalive",
            "connection_status",
            "group_config_status",
            "status_code",
        ):
            db.command(f"global sql update agent set {column} = 'v' where id = 1")
    (row,) = db.rows(f"select {fields}, coalesce(ip,register_ip) as 'ip' from agent where id = 1")
    assert list(row) == [*names, "ip"]


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ("name like '%a%' and id > 0", [1, 2, 3, 4]),
        ("name like 'BETA'", [2]),
        ("os_name is null", [0, 4, 5]),
        ("os_name is not null and name != 'alpha'", [2, 3]),
        ("name = 'BETA' collate nocase", [2]),
        ("name = 'BETA'", []),
        ("name = 'delta''s'", [4]),
        ("id != '000'", [1, 2, 3, 4, 5]),
        ("id = '003'", [3]),
        ("id < '002' and id > '000'", [1]),
        ("last_keepalive < strftime('%s', 'now') - 60 and id > 0", [1]),
        ("last_keepalive = strftime('%s', '2025-11-23 03:53:20')", [1]),
        ("`group` like '%web%'", [1, 2]),
        ("`group` is null and id > 0", [4, 5]),
        ("id in (select id_agent from belongs join `group` on id_group = id where name = 'web')", [1, 2]),
        ("(connection_status = 'active' or connection_status = 'never_connected') and not id in (000)", [1, 3, 4, 5]),
    ],
)
def test_conditions(db: WdbClient, condition: str, ids: list[int]) -> None:
    put(db, 0, os_name=None)
    rows = db.rows(f"select id from agent where {condition} order by id")
    assert [row["id"] for row in rows] == ids


def test_joins_groups_and_order(db: WdbClient) -> None:
    assert (
        db.raw(
            "global sql select g.name as 'name', count(b.id_agent) as 'count' from `group` g left join belongs b "
            "on g.id = b.id_group group by g.id order by count(b.id_agent) desc, g.name collate nocase asc"
        )
        == b'ok [{"name":"web","count":2},{"name":"default","count":1},{"name":"linux","count":1}]'
    )
    assert db.raw("global sql select name from agent where id > 0 order by name collate nocase desc") == (
        b'ok [{"name":"gamma"},{"name":"Epsilon"},{"name":"delta\'s"},{"name":"Beta"},{"name":"alpha"}]'
    )
    assert (
        db.raw(
            "global sql select node_name, count(*) as 'n' from agent where id > 0 group by node_name order by node_name"
        )
        == b'ok [{"node_name":"unknown","n":1},{"node_name":"worker1","n":3},{"node_name":"worker2","n":1}]'
    )


@pytest.fixture
def many(agents: None, db: WdbClient) -> Iterator[None]:
    db.command("global sql delete from agent where id > 0")
    add_many(db, 4000)
    db.command("global sql update agent set name = name || hex(zeroblob(50)) where id > 2000")
    yield
    db.command("global sql delete from agent where id > 0")


@pytest.mark.usefixtures("many")
def test_a_client_halves_its_pages_until_they_fit(db: WdbClient) -> None:
    """Pages as the synchronous client of the stock tools does: doubles short pages, reads cut ones again in halves."""
    fields = "id as 'id', coalesce(ip,register_ip) as 'ip', connection_status as 'status', name as 'name'"
    rows: list[dict[str, object]] = []
    size, cut = 500, 0
    while True:
        answer = db.raw(f"global sql select {fields} from agent order by id asc limit {size} offset {len(rows)}")
        if len(answer) >= LARGEST:
            assert len(answer) == LARGEST
            with pytest.raises(json.JSONDecodeError):
                json.loads(answer[3:])
            size, cut = size // 2, cut + 1
            continue
        page = json.loads(answer[3:])
        if not page:
            break
        rows += page
        if len(answer) < 32_768:
            size *= 2
    assert [row["id"] for row in rows] == list(range(4001))
    assert cut
