from wazuh.core import common


def get_cluster_items():
    if common.behaviour("items"):
        raise RuntimeError("cluster.json is broken")
    return {"intervals": {"communication": {"timeout_api_exe": 10}}}
