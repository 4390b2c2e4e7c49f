"""Requests, answers and their sizes on the stream socket: wdb.md 2.1 to 2.5."""

import struct

import pytest

from tests.contracts.helpers import LARGEST, NEEDS_ARGUMENT, add_agent, add_agents, agent, compact, memberships, some
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WdbClient

TAKES_JSON = [
    "sync-agent-groups-get",
    "set-agent-groups",
    "sync-agent-info-set",
    "insert-agent",
    "update-agent-data",
    "update-agent-name",
    "update-keepalive",
    "update-connection-status",
    "update-status-code",
    "find-agent",
]


@pytest.mark.parametrize("before", ["", " ", "   ", "\n", " \n\n  "])
def test_leading_spaces_and_newlines_are_skipped(db: WdbClient, before: str) -> None:
    assert db.raw(f"{before}global select-groups") == b'ok [{"name":"default"}]'


@pytest.mark.parametrize("nuls", [1, 2, 7])
def test_trailing_nuls_are_ignored(db: WdbClient, nuls: int) -> None:
    assert db.raw(b"global find-group default" + b"\0" * nuls) == db.raw("global find-group default")
    assert db.raw(b"global find-group nope" + b"\0" * nuls) == b"ok []"
    assert db.raw(b"global select-groups" + b"\0" * nuls) == b'ok [{"name":"default"}]'
    assert db.raw(b"foo bar" + b"\0" * nuls) == b"err Invalid DB query actor: 'foo'"


@pytest.mark.parametrize(
    ("request_text", "answer"),
    [
        ("global select-groups", b'ok [{"name":"default"}]'),
        ("global find-group nope", b"ok []"),
        ("global", b"err Invalid DB query syntax, near 'global'"),
        ("global sync-agent-groups-get {}", b'ok [{"data":[]}]'),
    ],
)
def test_a_trailing_newline_is_dropped_and_given_back(db: WdbClient, request_text: str, answer: bytes) -> None:
    assert db.raw(request_text + "\n") == answer + b"\n"
    assert db.raw(request_text + "\n\0") == answer + b"\n"


def test_an_answer_without_payload_has_no_trailing_space(db: WdbClient) -> None:
    assert db.raw('global set-agent-groups {"mode":"override","data":[]}') == b"ok"


def test_the_argument_keeps_its_spaces(db: WdbClient) -> None:
    assert db.raw("global sql select '  a  b  ' as t") == b'ok [{"t":"  a  b  "}]'


def test_requests_sent_together_are_answered_in_turn(db: WdbClient) -> None:
    texts = [f"global sql select {number} as n" for number in range(200)]
    db.send_bytes(b"".join(struct.pack("<I", len(text)) + text.encode() for text in texts))
    assert [db.receive() for _ in texts] == [b'ok [{"n":%d}]' % number for number in range(200)]


def test_a_request_may_arrive_byte_by_byte(db: WdbClient) -> None:
    for byte in struct.pack("<I", 20) + b"global select-groups":
        db.send_bytes(bytes([byte]))
    assert db.receive() == b'ok [{"name":"default"}]'


def test_an_empty_frame_ends_the_connection(db: WdbClient) -> None:
    db.send(b"")
    assert db.at_end()


def test_a_request_of_the_largest_size_is_served(db: WdbClient) -> None:
    text = "global sql select 1 as n"
    assert db.raw(text + " " * (LARGEST - len(text))) == b'ok [{"n":1}]'


@pytest.mark.parametrize("size", [LARGEST + 1, 1 << 20, 0xFFFFFFFF])
def test_a_larger_request_closes_its_connection_and_no_other(store: LoneStore, db: WdbClient, size: int) -> None:
    with WdbClient(store.root) as other:
        other.send_bytes(struct.pack("<I", size))
        assert other.at_end()
    assert db.raw("global select-groups") == b'ok [{"name":"default"}]'


def test_a_client_that_leaves_in_the_middle_of_a_request_affects_no_other_client(
    store: LoneStore, db: WdbClient
) -> None:
    for part in (b"\x14", struct.pack("<I", 20), struct.pack("<I", 20) + b"global"):
        with WdbClient(store.root) as other:
            other.send_bytes(part)
    assert db.raw("global select-groups") == b'ok [{"name":"default"}]'


@pytest.mark.parametrize(
    ("request_text", "answer"),
    [
        ("global", "err Invalid DB query syntax, near 'global'"),
        ("x" * 50, f"err Invalid DB query syntax, near '{'x' * 32}'"),
        ("x" * 32, f"err Invalid DB query syntax, near '{'x' * 32}'"),
        ("foo bar", "err Invalid DB query actor: 'foo'"),
        ("y" * 40 + " bar", f"err Invalid DB query actor: '{'y' * 32}'"),
        ("global nothing", "err Invalid DB query syntax, near 'nothing'"),
        ("global nothing at all", "err Invalid DB query syntax, near 'nothing'"),
        ("global " + "z" * 40, f"err Invalid DB query syntax, near '{'z' * 32}'"),
    ],
)
def test_errors_of_the_grammar(db: WdbClient, request_text: str, answer: str) -> None:
    assert db.raw(request_text) == answer.encode()


def test_a_backslash_protects_a_space_from_ending_the_command(db: WdbClient) -> None:
    assert db.raw("global select-groups\\ x").startswith(b"err Invalid DB query syntax, near 'select-groups")


@pytest.mark.parametrize("command", NEEDS_ARGUMENT)
def test_a_command_without_its_argument_is_a_syntax_error(db: WdbClient, command: str) -> None:
    assert db.raw(f"global {command}") == f"err Invalid DB query syntax, near '{command}'".encode()


@pytest.mark.parametrize("command", TAKES_JSON)
@pytest.mark.parametrize("text", ["{", "no", '{"id":1,}', "{} {}", "[] x", '{"id":1}trailing, longer than thirty-two'])
def test_an_argument_that_is_no_json_is_quoted(db: WdbClient, command: str, text: str) -> None:
    assert db.raw(f"global {command} {text}") == f"err Invalid JSON syntax, near '{text[:32]}'".encode()


REQUIRED = {
    "insert-agent": {"id": 7, "name": "x", "date_add": 1},
    "update-keepalive": {"id": 7, "connection_status": "active", "sync_status": "synced"},
    "update-connection-status": {"id": 7, "connection_status": "active", "sync_status": "synced", "status_code": 0},
    "update-status-code": {"id": 7, "status_code": 0, "sync_status": "synced"},
    "update-agent-name": {"id": 7, "name": "x"},
    "find-agent": {"name": "x", "ip": "any"},
    "update-agent-data": {"id": 7},
}


@pytest.mark.parametrize(
    ("command", "member"), [(command, member) for command, members in REQUIRED.items() for member in members]
)
def test_a_required_member_may_not_be_missing_or_of_another_type(db: WdbClient, command: str, member: str) -> None:
    members = REQUIRED[command]
    missing = compact({name: value for name, value in members.items() if name != member})
    wrong = compact({**members, member: 5 if isinstance(members[member], str) else "five"})
    nothing = compact({**members, member: None})
    for argument in (missing, wrong, nothing):
        assert db.raw(f"global {command} {argument}") == f"err Invalid JSON data, near '{argument[:32]}'".encode()


def test_messages_of_sqlite_are_passed_on(db: WdbClient) -> None:
    add_agent(db, 1)
    before = "err Cannot execute Global database query; "
    for statement, message in {
        "global sql select unheard from agent": "no such column: unheard",
        "global sql insert into belongs (id_agent, id_group) values (99, 1)": "FOREIGN KEY constraint failed",
        'global insert-agent {"id":1,"name":"again","date_add":1}': "UNIQUE constraint failed: agent.id",
        "global sql update agent set name = null where id = 1": "NOT NULL constraint failed: agent.name",
    }.items():
        assert db.raw(statement) == (before + message).encode()
    assert db.raw("global sql selec").startswith((before + "near ").encode())
    assert db.raw("global reset-agents-connection bogus") == b"ok"  # no agent to break the check
    add_agent(db, 2)
    db.command("global sql update agent set connection_status = 'active' where id = 2")
    assert db.raw("global reset-agents-connection bogus").startswith((before + "CHECK constraint failed: ").encode())


def test_numbers_with_leading_zeros_are_decimal(db: WdbClient) -> None:
    assert db.raw('global insert-agent {"id":0010,"name":"ten","date_add":0000001700}') == b"ok"
    assert some(db, 10, "name", "date_add") == ("ten", 1700)
    assert db.raw('global set-agent-groups {"mode":"append","data":[{"id": 010,"groups":["default"]}]}') == b"ok"
    assert memberships(db, 10) == [("default", 0)]
    assert db.raw('global sync-agent-groups-get {"condition":"all","last_id":009}').startswith(b'ok [{"data":[{"id":10')
    assert db.raw('global sync-agent-groups-get {"condition":"all","last_id":00}').startswith(b'ok [{"data":[{"id":10')
    assert db.raw('global sync-agent-groups-get {"condition":"all","last_id":010}') == b'ok [{"data":[]}]'


def test_zeros_within_texts_are_left_alone(db: WdbClient) -> None:
    name = 'a":001,"b":[007, 008] \\" :009'
    add_agent(db, 1, name)
    assert agent(db, 1)["name"] == name
    argument = compact({"id": 2, "name": name, "date_add": 5}).replace('"id":2', '"id":002')
    assert db.raw(f"global insert-agent {argument}") == b"ok"
    assert agent(db, 2)["name"] == name


def test_white_space_order_and_unknown_members_do_not_matter(db: WdbClient) -> None:
    text = ' {\n "date_add" : 5 ,\t"other":{"id":[1,null,true,2.5e3]} , "name": "x","id" :3 } '
    assert db.raw(f"global insert-agent {text}") == b"ok"
    assert some(db, 3, "name", "date_add") == ("x", 5)


def test_texts_are_utf8_and_escaped_where_they_must(db: WdbClient) -> None:
    assert db.raw('global insert-agent {"id":1,"name":"J\\u00fcrgen \\ud83d\\ude00 / \\u0001","date_add":5}') == b"ok"
    add_agent(db, 2, 'tab\t nl\n cr\r quote" back\\ slash/ ä')
    wanted = 'ok [{"name":"Jürgen 😀 / \\u0001"},{"name":"tab\\t nl\\n cr\\r quote\\" back\\\\ slash/ ä"}]'
    assert db.raw("global sql select name from agent where id > 0 order by id") == wanted.encode()
    assert db.raw("global select-agent-name 1") == 'ok [{"name":"Jürgen 😀 / \\u0001"}]'.encode()


def test_large_integers_have_neither_exponent_nor_fraction(db: WdbClient) -> None:
    statement = "global sql select 253402300799 as a, -9223372036854775808 as b, 9223372036854775807 as c"
    assert db.raw(statement) == b'ok [{"a":253402300799,"b":-9223372036854775808,"c":9223372036854775807}]'


def test_ids_are_the_leading_digits_of_their_text(db: WdbClient) -> None:
    add_agents(db, 1, 12)
    assert db.raw("global select-agent-name 001") == b'ok [{"name":"agent1"}]'
    assert db.raw("global select-agent-name 012abc") == b'ok [{"name":"agent12"}]'
    assert db.raw("global select-agent-name abc") == db.raw("global select-agent-name 0")
    assert db.raw("global delete-agent 0012") == b"ok"
    assert db.ids("get-all-agents last_id") == [1]


@pytest.mark.parametrize("command", ["get-agent-info", "get-labels", "select-agent-name", "select-agent-group"])
def test_an_unknown_id_is_an_empty_array_for_readers(db: WdbClient, command: str) -> None:
    assert db.raw(f"global {command} 99") == b"ok []"


@pytest.mark.parametrize(
    "request_text",
    [
        "delete-agent 99",
        'update-keepalive {"id":99,"connection_status":"active","sync_status":"synced"}',
        'update-connection-status {"id":99,"connection_status":"active","sync_status":"synced","status_code":0}',
        'update-status-code {"id":99,"status_code":1,"sync_status":"syncreq"}',
        'update-agent-data {"id":99,"connection_status":"active","group_config_status":"synced"}',
        'update-agent-name {"id":99,"name":"x"}',
        'sync-agent-info-set [{"id":99,"name":"x","connection_status":"active","group_config_status":"synced"}]',
    ],
)
def test_an_unknown_id_is_ok_for_writers_and_changes_nothing(db: WdbClient, request_text: str) -> None:
    assert db.raw(f"global {request_text}") == b"ok"
    assert db.ids("get-all-agents last_id") == []


# Too large answers (2.3).


@pytest.mark.parametrize("length", [0, 1, 65_500, LARGEST - 13, LARGEST - 12, LARGEST - 11, 70_000, 1_000_000])
def test_a_too_large_answer_of_sql_is_cut_at_exactly_the_limit(db: WdbClient, length: int) -> None:
    full = b'ok [{"t":"' + b"x" * length + b'"}]'
    answer = db.raw(f"global sql select replace(hex(zeroblob({length})), '00', 'x') as t")
    assert answer == full[:LARGEST]
    with_newline = db.raw(f"global sql select replace(hex(zeroblob({length})), '00', 'x') as t\n")
    assert with_newline == (full + b"\n")[:LARGEST] if len(full) < LARGEST else full[:LARGEST]


def test_a_text_may_be_cut_within_a_character(db: WdbClient) -> None:
    full = ("ok [" + ",".join(['{"t":"é"}'] * 10_000) + "]").encode()
    rows = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 10000) select 'é' as t from n"
    assert db.raw(f"global sql {rows}") == full[:LARGEST]
    full = ('ok [{"t":"x' + "é" * 40_000).encode()
    assert db.raw("global sql select 'x' || replace(hex(zeroblob(40000)), '00', 'é') as t") == full[:LARGEST]


def test_too_large_info_and_labels_are_cut_as_well(db: WdbClient) -> None:
    add_agent(db, 1)
    db.command(
        "global sql update agent set ip = replace(hex(zeroblob(20000)), '00', 'i'), name = "
        "replace(hex(zeroblob(40000)), '00', 'n'), internal_key = replace(hex(zeroblob(20000)), '00', 'k') where id = 1"
    )
    full = f'ok [{{"id":1,"name":"{"n" * 40_000}","ip":"{"i" * 20_000}","internal_key":"{"k" * 20_000}"'
    assert db.raw("global get-agent-info 1") == full[:LARGEST].encode()
    for key in "abc":
        db.command(f"global sql insert into labels values (1, '{key}', '{key * 30_000}')")
    answer = db.raw("global get-labels 1")
    assert len(answer) == LARGEST
    assert answer.startswith(b'ok [{"id":1,"key":"')
