"""Endpoints of agents and groups (dapi.md 5.3)."""

import msgspec

from clusterd.api.bodies import KnownAgent, NewAgent, NewGroup
from clusterd.api.endpoint import Body, Endpoint, Function
from clusterd.api.parameters import (
    AGENT_ID,
    AGENTS,
    GROUP_ID,
    LIMIT,
    NAME,
    OFFSET,
    RAW,
    SELECT,
    Parameter,
    Q,
    list_parameters,
    searching,
    sorting,
)
from clusterd.dapi.protocol.request import LOCAL_MASTER

HASHES = (
    "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "blake2s",
    "sha3_224", "sha3_256", "sha3_384", "sha3_512",
)  # fmt: skip
STATUSES = ("all", "active", "pending", "never_connected", "disconnected")
TEXT = r"^[^\u0000-\u001f\u007f]{1,512}$"
FILE_NAME = r"^[A-Za-z0-9_.-]{1,255}$"


def _agent(name: str) -> Function:
    return Function("wazuh.agent", name, LOCAL_MASTER)


def _filter(name: str, about: str) -> Parameter:
    return Parameter(name=name, pattern=TEXT, group="filters", about=about)


_STATUS = Parameter(
    name="status",
    kind="texts",
    choices=STATUSES,
    is_lowered=True,
    group="filters",
    about="Agents in one of these states.",
)
_FILTERS = (
    _STATUS,
    Parameter(
        name="older_than",
        pattern=r"^([0-9]{1,9}[smhd]?){1,4}$",
        group="filters",
        about="Agents that have been silent for longer, like 7d or 1d12h.",
    ),
    _filter("manager", "Agents that report to the manager of this name."),
    _filter("version", "Agents of this version."),
    _filter("group", "Agents of this group."),
    _filter("node_name", "Agents that report to this node."),
    _filter("name", "The agent of this name."),
    _filter("ip", "Agents with this address."),
    _filter("registerIP", "Agents that were registered with this address."),
    _filter("group_config_status", "Agents that have (synced) or have not (not synced) their group's files."),
    _filter("os.platform", "Agents on this platform."),
    _filter("os.version", "Agents on this version of their system."),
    _filter("os.name", "Agents on the system of this name."),
)
_GROUP = Parameter(name="group_id", pattern=NAME, keyword="group_list", is_listed=True, is_required=True,
                   about="A group's name.")  # fmt: skip
_HASH = Parameter(
    name="hash", keyword="hash_algorithm", choices=HASHES, is_lowered=True, default="md5", about="The kind of digest."
)
_SINGLE = Parameter(
    name="force_single_group",
    keyword="replace",
    kind="boolean",
    about="Take the agent out of all its other groups.",
)
_ALL_OR_AGENTS = Parameter(
    name="agents_list",
    kind="texts",
    pattern=r"^([0-9]{3,9}|all)$",
    keyword="agent_list",
    is_required=True,
    absent="all",
    about="Ids of agents, comma separated, or all.",
)

AGENT_ENDPOINTS = (
    Endpoint(
        "GET /agents",
        "Agents, by any filter",
        _agent("get_agents"),
        (AGENTS, *list_parameters("objects"), *_FILTERS),
        constants={"filters": {}},
    ),
    Endpoint(
        "GET /agents/no_group",
        "Agents without a group",
        _agent("get_agents"),
        list_parameters("objects"),
        adjust="without_group",
    ),
    Endpoint(
        "GET /agents/outdated",
        "Agents of another version than this node",
        _agent("get_outdated_agents"),
        list_parameters("objects"),
    ),
    Endpoint(
        "GET /agents/stats/distinct",
        "Every combination of some fields, with how many agents have it",
        _agent("get_distinct_agents"),
        (
            Parameter(name="fields", kind="texts", pattern=SELECT, about="Fields, comma separated; all without it."),
            OFFSET,
            LIMIT,
            sorting("objects"),
            searching("objects"),
            Q,
        ),
    ),
    Endpoint(
        "GET /agents/summary",
        "How many agents are in which state, on which system, in which group",
        _agent("get_agents_summary"),
        (AGENTS,),
        answer="object",
    ),
    Endpoint(
        "GET /agents/summary/status",
        "How many agents are in which state",
        _agent("get_agents_summary_status"),
        answer="object",
    ),
    Endpoint("GET /agents/summary/os", "The platforms of all agents", _agent("get_agents_summary_os")),
    Endpoint(
        "GET /agents/{agent_id}/group/is_sync",
        "Whether an agent has the files of its groups",
        _agent("get_agents_sync_group"),
        (AGENT_ID,),
    ),
    Endpoint(
        "GET /agents/{agent_id}/key",
        "The key of an agent, as it is imported there; for admins",
        _agent("get_agents_keys"),
        (AGENT_ID,),
    ),
    Endpoint("POST /agents", "Add an agent", _agent("add_agent"), body=Body(model=NewAgent), answer="object"),
    Endpoint(
        "POST /agents/insert",
        "Add an agent that has an id and a key already",
        _agent("add_agent"),
        body=Body(model=KnownAgent),
        answer="object",
    ),
    Endpoint(
        "POST /agents/insert/quick",
        "Add an agent by its name alone",
        _agent("add_agent"),
        (
            Parameter(
                name="agent_name",
                pattern=r"^[A-Za-z0-9._-]{1,128}$",
                keyword="name",
                is_required=True,
                about="The agent's name.",
            ),
        ),
        answer="object",
    ),
    Endpoint(
        "DELETE /agents",
        "Delete agents that meet all conditions",
        _agent("delete_agents"),
        (
            _ALL_OR_AGENTS,
            msgspec.structs.replace(_STATUS, is_required=True),
            *(
                msgspec.structs.replace(one, default="7d") if one.name == "older_than" else one
                for one in _FILTERS
                if one is not _STATUS
            ),
            Q,
            Parameter(name="purge", kind="boolean", default=False, about="Keep no record of them in client.keys."),
        ),
        constants={"filters": {}},
    ),
    Endpoint(
        "PUT /agents/group", "Put agents into a group", _agent("assign_agents_to_group"), (_GROUP, AGENTS, _SINGLE)
    ),
    Endpoint(
        "DELETE /agents/group",
        "Take agents out of a group",
        _agent("remove_agents_from_group"),
        (_GROUP, _ALL_OR_AGENTS),
    ),
    Endpoint(
        "PUT /agents/{agent_id}/group/{group_id}",
        "Put an agent into a group",
        _agent("assign_agents_to_group"),
        (AGENT_ID, GROUP_ID, _SINGLE),
    ),
    Endpoint(
        "DELETE /agents/{agent_id}/group/{group_id}",
        "Take an agent out of a group",
        _agent("remove_agent_from_group"),
        (AGENT_ID, GROUP_ID),
        answer="message",
    ),
    Endpoint(
        "DELETE /agents/{agent_id}/group",
        "Take an agent out of some groups, or of all",
        _agent("remove_agent_from_groups"),
        (
            AGENT_ID,
            Parameter(
                name="groups_list", kind="texts", pattern=NAME, keyword="group_list", about="Groups; all without it."
            ),
        ),
    ),
)

GROUP_ENDPOINTS = (
    Endpoint(
        "GET /groups",
        "Groups, with how many agents they have",
        _agent("get_agent_groups"),
        (
            Parameter(name="groups_list", kind="texts", pattern=NAME, keyword="group_list", about="Names of groups."),
            _HASH,
            *list_parameters("words", sort="name"),
        ),
    ),
    Endpoint("POST /groups", "Make a group", _agent("create_group"), body=Body(model=NewGroup), answer="message"),
    Endpoint(
        "DELETE /groups",
        "Delete groups; their agents stay",
        _agent("delete_groups"),
        (
            Parameter(
                name="groups_list",
                kind="texts",
                pattern=NAME,
                keyword="group_list",
                is_required=True,
                absent="all",
                about="Names of groups, comma separated, or all.",
            ),
        ),
    ),
    Endpoint(
        "GET /groups/{group_id}/agents",
        "The agents of a group",
        _agent("get_agents_in_group"),
        (GROUP_ID, *list_parameters("objects"), _STATUS),
        constants={"filters": {}},
    ),
    Endpoint(
        "GET /groups/{group_id}/files",
        "The files of a group, with their digests",
        _agent("get_group_files"),
        (GROUP_ID, _HASH, *list_parameters("words", sort="filename")),
    ),
    Endpoint(
        "GET /groups/{group_id}/files/{file_name}",
        "A file of a group",
        _agent("get_file_conf"),
        (
            GROUP_ID,
            Parameter(name="file_name", place="path", pattern=FILE_NAME, keyword="filename", about="A file's name."),
            Parameter(
                name="type",
                keyword="type_conf",
                choices=("conf", "rootkit_files", "rootkit_trojans", "rcl"),
                is_lowered=True,
                about="How to read the file.",
            ),
            RAW,
        ),
        answer="object",
        raw_type="text/plain",
    ),
)
