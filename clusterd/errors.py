"""The exception hierarchy and the codes that nodes exchange (wire.md section 10). Messages are never sent: both ends
look them up by code."""

import re

MESSAGES: dict[int, str] = {
    1000: "Wazuh Internal Error",
    1005: "The file cannot be written",
    1006: "The file or directory cannot be accessed",
    1013: "Unable to connect with socket",
    1014: "Error communicating with socket",
    1017: 'Some Wazuh daemons are not ready yet in node "{node_name}" ({not_ready_daemons})',
    1020: "There is no log file",
    1112: "The file has no content",
    1113: "The content is not well-formed XML",
    1121: "Error connecting with socket",
    1200: "The ruleset section of the configuration cannot be read for the rules",
    1202: "An argument has a value that is not possible",
    1209: "The directory for rules does not exist",
    1210: "Only XML files below etc/rules can be written or removed",
    1211: "The configuration loads no rules from this directory",
    1308: "There are no statistics of that day",
    1309: "The statistics file is damaged",
    1400: "Invalid offset",
    1401: "Invalid limit",
    1402: "Not a valid sort order",
    1403: "Not a valid sort field",
    1405: "Specified limit exceeds maximum allowed",
    1406: "0 is not a valid limit",
    1407: "Not a valid query",
    1408: "Unknown field in a query",
    1409: "Not a valid operator in a query",
    1411: "Not a valid time span",
    1412: "Not a valid date",
    1413: "The rules file cannot be read",
    1414: "The rules file cannot be read for want of permissions",
    1415: "There is no such rules file",
    1500: "The ruleset section of the configuration cannot be read for the decoders",
    1501: "The decoders file cannot be read",
    1502: "The decoders file cannot be read for want of permissions",
    1503: "There is no such decoders file",
    1505: "The directory for decoders does not exist",
    1506: "Only XML files below etc/decoders can be written or removed",
    1507: "The configuration loads no decoders from this directory",
    1701: "Agent does not exist",
    1703: "This action is not possible for agent 000",
    1705: "There is an agent with the same name",
    1706: "There is an agent with the same address",
    1708: "There is an agent with the same id",
    1710: "The group does not exist",
    1711: "The group exists already",
    1712: "The default group cannot be deleted",
    1713: "A file has the name of this group",
    1722: "Not a possible name for a group",
    1723: "Not a known digest algorithm",
    1724: "Not a valid select field",
    1727: "The files of the group cannot be listed",
    1728: "Invalid node type",
    1730: "Node does not exist",
    1731: "The agent does not meet the conditions of this request",
    1734: "The agent does not belong to the group",
    1737: "The agent is in as many groups as are possible",
    1745: "The agent belongs to the default group only",
    1751: "The agent belongs to the group already",
    1752: "The agent cannot be put into a single group",
    1800: "The lines of a CDB list have the form key:value, with double quotes around what holds a colon: {path}",
    1801: "This is no name that a CDB list can have",
    1802: "There is no such CDB list",
    1803: "The CDB list cannot be read",
    1804: "The CDB list cannot be read for want of permissions",
    1805: "A CDB list of this name is in another directory",
    1806: "The CDB list cannot be written",
    1905: "The file exists already and may not be overwritten",
    1906: "The file does not exist",
    1907: "The file cannot be removed",
    1913: "The process table is not available",
    2003: "Error in wazuhdb request",
    2004: "The database takes no such statement",
    2005: "Could not connect to wdb socket",
    2007: "Error retrieving data from Wazuh DB",
    2010: "The requested read operation did not complete fully",
    2011: "Could not connect to the wazuh-db unix socket",
    2012: "Invalid wazuh-db HTTP request",
    2013: "Error sending HTTP request",
    2014: "The wazuh-db client connection timeout has been exceeded",
    2017: "Could not retrieve agents synchronization information from wazuh-db",
    3000: "Cluster",
    3001: "Error creating zip file",
    3002: "Error creating PID file",
    3004: "Error in cluster configuration",
    3005: "Error reading cluster JSON file",
    3006: "Error reading cluster configuration",
    3007: "Client.keys file received in master node",
    3009: "Error executing distributed API request",
    3012: "Cluster is not running",
    3013: "Cluster is not running, it might be disabled in `WAZUH_HOME/etc/ossec.conf`",
    3015: "Cannot access directory",
    3016: "Received an error response",
    3018: "Error sending request",
    3019: "Wazuh is running in cluster mode: {EXECUTABLE_NAME} is not available in worker nodes. "
    "Please, try again in the master node: {MASTER_IP}",
    3020: "Timeout sending request",
    3021: "Timeout executing API request",
    3022: "Unknown node ID",
    3023: "Worker node is not connected to master",
    3024: "Length of command exceeds limit defined in wazuh.cluster.common.Handler.cmd_len.",
    3025: "Could not decrypt message",
    3026: "Error sending request: Memory error. Request chunk size divided by 2.",
    3027: "Unknown received task name",
    3028: "Worker node ID already exists",
    3029: "Connected worker with same name as the master",
    3030: "Worker does not belong to the same cluster",
    3031: "Worker and master versions are not the same",
    3032: "Could not forward DAPI request. Connection not available.",
    3034: "Error sending file. File not found.",
    3035: "String couldn't be found",
    3036: "JSON couldn't be loaded",
    3037: "Error while processing Agent-info chunks",
    3038: "Error while processing extra-valid files",
    3039: "Timeout while waiting to receive a file",
    3040: "Error while waiting to receive a file",
    3041: "Server status check timed out after adding new servers",
    3042: "User configuration is not valid",
    3043: "Could not initialize Proxy API",
    3044: "Could not connect to the HAProxy dataplane API",
    3045: "Could not connect to HAProxy",
    3046: "Invalid credentials for the Proxy API",
    3047: "Invalid HAProxy Dataplane API specification configured",
    3048: "Could not detect a valid HAProxy process linked to the Dataplane API",
    3049: "Unexpected response from HAProxy Dataplane API",
    4000: "Permission denied",
}


NO_DATABASE = 2005
_ALARMING = re.compile("error|traceback", re.IGNORECASE)


class ClusterError(Exception):
    """A failure with a code that other nodes know. `extra` is a detail that follows the code's message.

    Text: `Error {code} - {message}` or `Error {code} - {message}: {extra}`; an unknown code takes `extra` as
    message."""

    def __init__(self, code: int, extra: str | None = None) -> None:
        self.code = code
        self.extra = extra
        super().__init__(code, extra)

    def __str__(self) -> str:
        message = MESSAGES.get(self.code)
        if message is None:
            return f"Error {self.code} - {self.extra or ''}"
        return f"Error {self.code} - {message}" + (f": {self.extra}" if self.extra else "")


def in_passing(failure: BaseException) -> str:
    """Words a failure for a line below ERROR: without that word and without "traceback", which operators' suites take
    for a fault."""
    if isinstance(failure, ClusterError):
        message = MESSAGES.get(failure.code) if failure.code != 1000 or not failure.extra else None
        text = ": ".join(part for part in (message, failure.extra) if part) or f"code {failure.code}"
    else:
        text = str(failure) or type(failure).__name__
    return calm(text)


def for_people(failure: "ClusterError") -> str:
    """The text of a refusal for whoever typed the command: of code 1000, which only says that something is wrong, what
    is wrong; of the agent database, where to look."""
    if failure.code == NO_DATABASE:
        return f"{failure}. Nobody serves the agent database: clusterd status, on the master, says why"
    return failure.extra if failure.code == 1000 and failure.extra else str(failure)


def in_words(failure: Exception) -> str:
    """For people: what the system says of it, without its number and the path that stands beside it anyway."""
    return getattr(failure, "strerror", None) or str(failure)


def with_place(failure: OSError, root: str) -> str:
    """For people: what the system says, and of which file; of the root's disk where it names none that they know."""
    known = isinstance(failure.filename, str) and failure.filename.startswith("/")
    return f"{failure.filename if known else root}: {in_words(failure)}"


def calm(text: str) -> str:
    """Removes from a text of ours the words that such suites take for a fault."""
    return _ALARMING.sub(lambda word: "failure" if word[0].lower() == "error" else "stack", text)


class ConfigurationError(Exception):
    """The configuration has mistakes; the text lists them, one per line."""


class PlainFailure(Exception):
    """Something cannot be done. The text tells whoever asked for it why, and what to do: a command shows it and ends
    with FAILED (tools/cli.py)."""


class StartFailure(PlainFailure):
    """The node, or one of its processes, cannot start. The text says why and what to do."""
