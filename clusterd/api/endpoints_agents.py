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


def _agent(name: str, *, is_async: bool = False) -> Function:
    return Function(module="wazuh.agent", qualname=name, request_type=LOCAL_MASTER, is_async=is_async)


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
        method="GET",
        path="/agents",
        tag="Agents",
        summary="Agents, by any filter",
        function=_agent("get_agents"),
        parameters=(AGENTS, *list_parameters("objects"), *_FILTERS),
        constants={"filters": {}},
    ),
    Endpoint(
        method="GET",
        path="/agents/no_group",
        tag="Agents",
        summary="Agents without a group",
        function=_agent("get_agents"),
        parameters=list_parameters("objects"),
        adjust="without_group",
    ),
    Endpoint(
        method="GET",
        path="/agents/outdated",
        tag="Agents",
        summary="Agents of another version than this node",
        function=_agent("get_outdated_agents"),
        parameters=list_parameters("objects"),
    ),
    Endpoint(
        method="GET",
        path="/agents/stats/distinct",
        tag="Agents",
        summary="Every combination of some fields, with how many agents have it",
        function=_agent("get_distinct_agents"),
        parameters=(
            Parameter(name="fields", kind="texts", pattern=SELECT, about="Fields, comma separated; all without it."),
            OFFSET,
            LIMIT,
            sorting("objects"),
            searching("objects"),
            Q,
        ),
    ),
    Endpoint(
        method="GET",
        path="/agents/summary",
        tag="Agents",
        summary="How many agents are in which state, on which system, in which group",
        function=_agent("get_agents_summary", is_async=True),
        parameters=(AGENTS,),
        answer="object",
    ),
    Endpoint(
        method="GET",
        path="/agents/summary/status",
        tag="Agents",
        summary="How many agents are in which state",
        function=_agent("get_agents_summary_status"),
        answer="object",
    ),
    Endpoint(
        method="GET",
        path="/agents/summary/os",
        tag="Agents",
        summary="The platforms of all agents",
        function=_agent("get_agents_summary_os"),
    ),
    Endpoint(
        method="GET",
        path="/agents/{agent_id}/group/is_sync",
        tag="Agents",
        summary="Whether an agent has the files of its groups",
        function=_agent("get_agents_sync_group"),
        parameters=(AGENT_ID,),
    ),
    Endpoint(
        method="GET",
        path="/agents/{agent_id}/key",
        tag="Agents",
        summary="The key of an agent, as it is imported there; for admins",
        function=_agent("get_agents_keys"),
        parameters=(AGENT_ID,),
    ),
    Endpoint(
        method="POST",
        path="/agents",
        tag="Agents",
        summary="Add an agent",
        function=_agent("add_agent"),
        body=Body(model=NewAgent),
        answer="object",
    ),
    Endpoint(
        method="POST",
        path="/agents/insert",
        tag="Agents",
        summary="Add an agent that has an id and a key already",
        function=_agent("add_agent"),
        body=Body(model=KnownAgent),
        answer="object",
    ),
    Endpoint(
        method="POST",
        path="/agents/insert/quick",
        tag="Agents",
        summary="Add an agent by its name alone",
        function=_agent("add_agent"),
        parameters=(
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
        method="DELETE",
        path="/agents",
        tag="Agents",
        summary="Delete agents that meet all conditions",
        function=_agent("delete_agents"),
        parameters=(
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
        method="PUT",
        path="/agents/group",
        tag="Agents",
        summary="Put agents into a group",
        function=_agent("assign_agents_to_group", is_async=True),
        parameters=(_GROUP, AGENTS, _SINGLE),
    ),
    Endpoint(
        method="DELETE",
        path="/agents/group",
        tag="Agents",
        summary="Take agents out of a group",
        function=_agent("remove_agents_from_group", is_async=True),
        parameters=(_GROUP, _ALL_OR_AGENTS),
    ),
    Endpoint(
        method="PUT",
        path="/agents/{agent_id}/group/{group_id}",
        tag="Agents",
        summary="Put an agent into a group",
        function=_agent("assign_agents_to_group", is_async=True),
        parameters=(AGENT_ID, GROUP_ID, _SINGLE),
    ),
    Endpoint(
        method="DELETE",
        path="/agents/{agent_id}/group/{group_id}",
        tag="Agents",
        summary="Take an agent out of a group",
        function=_agent("remove_agent_from_group", is_async=True),
        parameters=(AGENT_ID, GROUP_ID),
        answer="message",
    ),
    Endpoint(
        method="DELETE",
        path="/agents/{agent_id}/group",
        tag="Agents",
        summary="Take an agent out of some groups, or of all",
        function=_agent("remove_agent_from_groups", is_async=True),
        parameters=(
            AGENT_ID,
            Parameter(
                name="groups_list", kind="texts", pattern=NAME, keyword="group_list", about="Groups; all without it."
            ),
        ),
    ),
)

GROUP_ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/groups",
        tag="Groups",
        summary="Groups, with how many agents they have",
        function=_agent("get_agent_groups"),
        parameters=(
            Parameter(name="groups_list", kind="texts", pattern=NAME, keyword="group_list", about="Names of groups."),
            _HASH,
            *list_parameters("words", sort="name"),
        ),
    ),
    Endpoint(
        method="POST",
        path="/groups",
        tag="Groups",
        summary="Make a group",
        function=_agent("create_group"),
        body=Body(model=NewGroup),
        answer="message",
    ),
    Endpoint(
        method="DELETE",
        path="/groups",
        tag="Groups",
        summary="Delete groups; their agents stay",
        function=_agent("delete_groups"),
        parameters=(
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
        method="GET",
        path="/groups/{group_id}/agents",
        tag="Groups",
        summary="The agents of a group",
        function=_agent("get_agents_in_group"),
        parameters=(GROUP_ID, *list_parameters("objects"), _STATUS),
        constants={"filters": {}},
    ),
    Endpoint(
        method="GET",
        path="/groups/{group_id}/files",
        tag="Groups",
        summary="The files of a group, with their digests",
        function=_agent("get_group_files"),
        parameters=(GROUP_ID, _HASH, *list_parameters("words", sort="filename")),
    ),
    Endpoint(
        method="GET",
        path="/groups/{group_id}/files/{file_name}",
        tag="Groups",
        summary="A file of a group",
        function=_agent("get_file_conf"),
        parameters=(
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
