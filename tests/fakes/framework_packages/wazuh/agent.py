import asyncio

from wazuh.core import common
from wazuh.core.common import exposed
from wazuh.core.exception import WazuhError, WazuhResourceNotFound
from wazuh.core.results import AffectedItemsWazuhResult, WazuhResult

AGENTS = [{"id": f"{number:03}", "name": f"agent-{number}", "status": "active"} for number in range(1, 6)]


@exposed
def get_agents(agent_list=None, offset=0, limit=500, **others):
    found = [agent for agent in AGENTS if agent_list is None or agent["id"] in agent_list]
    unknown = sorted(set(agent_list or ()) - {agent["id"] for agent in AGENTS})
    failed = {WazuhResourceNotFound(1701): unknown} if unknown else {}
    return AffectedItemsWazuhResult(found[offset : offset + limit], failed=failed)


@exposed
def get_agents_summary_status(agent_list=None):
    return WazuhResult({"data": {"connection": {"active": len(AGENTS), "disconnected": 0, "total": len(AGENTS)}}})


@exposed
def add_agent(name=None, **others):
    common.count(f"added-{name}")
    if name == "taken":
        raise WazuhError(1705, extra_message=name)
    return WazuhResult({"data": {"id": "006", "key": "a2V5"}})


@exposed
async def assign_agents_to_group(group_list=None, agent_list=None, replace=False, **others):
    common.count(f"assigned-{group_list}")
    await asyncio.sleep(0)
    return AffectedItemsWazuhResult(agent_list)
