"""Every endpoint of the first version (dapi.md 5), in the order in which they are shown."""

from clusterd.api.endpoints_agents import AGENT_ENDPOINTS, GROUP_ENDPOINTS
from clusterd.api.endpoints_cluster import CLUSTER, MANAGER, SCA
from clusterd.api.endpoints_ruleset import RULESET

ENDPOINTS = (*CLUSTER, *AGENT_ENDPOINTS, *GROUP_ENDPOINTS, *RULESET, *SCA, *MANAGER)
