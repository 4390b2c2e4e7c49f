"""Runs one function (dapi.md 3.7)."""

import asyncio
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor

from wazuh.core import common, exception, results

if common.behaviour("import") == "fail":
    raise ImportError("libfoo.so.1: cannot open shared object file")
if common.behaviour("import") in ("hang", "slow"):
    time.sleep(3 if common.behaviour("import") == "slow" else 3600)
if common.behaviour("import") == "exit":
    print("half of the framework is not there")
    os._exit(3)

pools = {"process_pool": ProcessPoolExecutor(1), "authentication_pool": ProcessPoolExecutor(1)}


class DistributedAPI:
    def __init__(
        self,
        f,
        logger,
        f_kwargs=None,
        node=None,
        debug=False,
        from_cluster=False,
        request_type="local_master",
        wait_for_complete=False,
        is_async=False,
        basic_services=None,
        rbac_permissions=None,
        current_user="",
        broadcasting=False,
        nodes=None,
        api_timeout=None,
        remove_denied_nodes=False,
        local_client_arg=None,
    ):
        assert from_cluster, "it would be sent on"
        self.f = f
        self.f_kwargs = f_kwargs or {}
        self.node = node
        self.is_async = is_async
        self.timeout = None if wait_for_complete else api_timeout or 10
        self.rbac_permissions = rbac_permissions or {"rbac_mode": "black"}
        self.current_user = current_user

    async def distribute_function(self):
        common.rbac.set(self.rbac_permissions)
        common.current_user.set(self.current_user)
        assert "intervals" in self.node.cluster_items
        name = self.node.get_node()["node"]
        try:
            if self.is_async:
                task = asyncio.get_running_loop().create_task(self.f(**self.f_kwargs))
            else:
                import contextvars

                context = contextvars.copy_context()
                pool = pools.get("process_pool")
                task = asyncio.get_running_loop().run_in_executor(pool, lambda: context.run(self.f, **self.f_kwargs))
            data = await asyncio.wait_for(task, self.timeout)
        except asyncio.TimeoutError:  # noqa: UP041
            return exception.WazuhInternalError(3021, dapi_errors={name: {"error": "Timeout"}})
        except exception.WazuhException as failure:
            failure.dapi_errors = {name: {"error": str(failure)}}
            return failure
        except Exception:
            return exception.WazuhInternalError(1000, dapi_errors={name: {"error": "Wazuh Internal Error"}})
        if isinstance(data, str):
            try:
                data = json.loads(data)
            except ValueError:
                data = {"message": data}
        return results.WazuhResult(data) if isinstance(data, dict) else data
