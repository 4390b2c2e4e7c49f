"""Commands that nodes of both roles answer in the same way: files and strings of peers, the API, requests of local
programs."""

from clusterd.dapi.protocol.registry import Cluster
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import CommonRequests, Handler, SealedHandler
from clusterd.sync.links.peer import Peer
from clusterd.sync.requests.api import ApiRequests
from clusterd.sync.requests.local import LocalRequests
from clusterd.sync.requests.send_file import SendFile


class BothRoles:
    """`remote`, `sealed` and `local` are its commands, as of a Side."""

    def __init__(self, context: Context, cluster: Cluster, programs: LocalRequests) -> None:
        common = CommonRequests(context)
        self._api = ApiRequests(context, cluster)
        self.remote: dict[str, Handler] = common.table | self._api.remote
        self.sealed: dict[str, SealedHandler] = dict(common.sealed)
        self.local: dict[str, Handler] = programs.table | self._api.local | SendFile(context).local

    @property
    def giving(self) -> int:
        """Answers of the API that their askers have not taken yet."""
        return self._api.giving

    def link_lost(self, peer: Peer) -> None:
        """Called when the link is no longer in the roster; its tasks have not ended yet."""
        self._api.link_lost(peer)
