import time

from wazuh import security
from wazuh.core.common import exposed
from wazuh.core.results import WazuhResult


@exposed
def check_user_master(user, password):
    """Slow by design, as the real one is."""
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        security.digest(password)
    with security.connect() as database:
        row = database.execute("select password from user where name = ?", (user,)).fetchone()
    return {"result": row is not None and row[0] == security.digest(password)}


@exposed
def check_token(username=None, roles=None, token_nbf_time=None, run_as=False, origin_node_type=None):
    return WazuhResult({"valid": username == "wazuh", "policies": {"rbac_mode": "white"}})


@exposed
def get_security_conf():
    return {"auth_token_exp_timeout": 900, "rbac_mode": "white"}
