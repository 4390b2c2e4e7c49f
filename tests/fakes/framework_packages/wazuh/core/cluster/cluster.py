def get_node():
    return {"node": "fake-node", "type": "master", "cluster": "wazuh"}
