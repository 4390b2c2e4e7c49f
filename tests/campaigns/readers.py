"""Every reader of bytes from outside, with the exceptions that it may raise and the inputs from which a run begins."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clusterd.config.loading import load
from clusterd.dapi.protocol import envelope, request
from clusterd.dapi.query.parser import parse_query
from clusterd.dapi.ruleset.xml import MalformedXml, parse_ruleset
from clusterd.errors import ClusterError
from clusterd.store import auth_request, keys
from clusterd.store.jsontext import JsonRefused, parse
from clusterd.wdb.batches import BadString, parse_chunk, parse_groups, parse_report
from clusterd.wire import payloads
from clusterd.wire.connection import Connection
from clusterd.wire.frame import build_header
from clusterd.wire.results import WireException, decode_err_payload
from clusterd.wire.seal import Sealer
from hashing.errors import HashingError
from hashing.exchange import parse_told
from hashing.merged import parse_merged
from hashing.metadata_json import parse_wire_difference, parse_wire_metadata
from hashing.package import PackageReader, read_metadata

CORPUS = Path(__file__).parent / "corpus"
SEALER = Sealer(b"k" * 32)
CONF = b"""<ossec_config>
  <global><jsonout_output>yes</jsonout_output></global>
  <cluster>
    <name>rig</name><node_name>m</node_name><node_type>master</node_type>
    <key>c98b62a9b6169ac5f67dae55ae4a9088</key><port>1516</port><bind_addr>127.0.0.1</bind_addr>
    <nodes><node>127.0.0.1</node></nodes><hidden>no</hidden><disabled>no</disabled>
  </cluster>
</ossec_config>
"""
JSON = (
    b'{"intervals": {"worker": {"sync_integrity": 9}}, '
    b'"clusterd": {"caps": ["digest"], "limits": {"connections": 100}}}'
)
METADATA = (
    b'{"etc/rules/a.xml": {"mod_time": 1.5, "cluster_item_key": "etc/rules/", "merged": false, "hash": "'
    + b"0" * 64
    + b'"}}'
)
DAPI = (
    b'{"f": {"__callable__": {"__name__": "get_agents", "__qualname__": "get_agents", "__module__": "wazuh.agent", '
    b'"__type__": "function"}}, "f_kwargs": {"limit": 5, "q": "id=001"}, "request_type": "local_master", '
    b'"from_cluster": true, "wait_for_complete": false, "rbac_permissions": {"rbac_mode": "black"}, "nodes": [], '
    b'"api_timeout": 30}'
)


@dataclass(frozen=True)
class Reader:
    """`read` gets bytes; it may raise `refuses` and nothing else."""

    name: str
    read: Callable[[bytes], object]
    refuses: tuple[type[BaseException], ...]
    seeds: list[bytes]
    words: list[bytes] = field(default_factory=list)

    def corpus(self) -> list[bytes]:
        """The seeds, and inputs that once showed a fault."""
        place = CORPUS / self.name
        kept = [path.read_bytes() for path in sorted(place.iterdir())] if place.is_dir() else []
        return [*self.seeds, *kept]


def _frames(role: str) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        end = Connection(role, None if role.startswith("local") else SEALER, counter_start=0)  # type: ignore[arg-type]
        # Cut in two, so that every kind of remainder is kept.
        return [end.receive(data[: len(data) // 2]), end.receive(data[len(data) // 2 :])]

    return read


def _package(data: bytes) -> object:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        reader = PackageReader(file.fileno(), len(data))
        while reader.expects_entry:
            path = reader.read_path()
            for _ in reader.content(path, 1 << 22):
                pass
        return read_metadata(PackageReader(file.fileno(), len(data)), 1 << 22)


def _configuration(conf: bytes, cluster_json: bytes) -> object:
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "etc").mkdir()
        (Path(root) / "etc/ossec.conf").write_bytes(conf)
        (Path(root) / "etc/cluster.json").write_bytes(cluster_json)
        return load(root)


def _text(function: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: function(data.decode(errors="surrogateescape"))


def _all_payloads(data: bytes) -> object:
    """Each reader is tried by itself: one that refuses must not keep the others from being tried."""
    readers: tuple[Callable[[bytes], object], ...] = (
        payloads.parse_id,
        payloads.parse_task_id,
        payloads.parse_hello,
        payloads.parse_length,
        payloads.parse_package_claim,
        payloads.parse_task_path,
        payloads.parse_task_failure,
        payloads.parse_file_end,
        payloads.parse_addressed,
        payloads.parse_string_for,
        payloads.parse_batch_result,
        payloads.parse_sendsync,
        payloads.parse_clock,
        payloads.parse_digest_check,
        payloads.parse_differs,
        payloads.parse_sync_count,
        payloads.parse_listed,
        payloads.parse_changed,
        payloads.parse_caps,
    )
    for read in readers:
        try:
            read(data)
        except ClusterError:
            continue
    return None


def _sealed(command: str, payload: bytes) -> bytes:
    body = SEALER.seal(payload)
    return build_header(7, len(body), command, False) + body


def _packed() -> list[bytes]:
    from hashing.package import FILE_SEP, compress_entry

    found = []
    for method in ("zlib", "lz4"):
        package = bytearray()
        for number, (path, content) in enumerate(
            (("etc/rules/a.xml", b"<group/>" * 50), ("files_metadata.json", METADATA))
        ):
            package += FILE_SEP if number else b""
            compress_entry(path, iter([content]), 1, package.extend, method)  # type: ignore[arg-type]
        found.append(bytes(package))
    return found


READERS = [
    Reader(
        "frames-master",
        _frames("master"),
        (),
        [_sealed("hello", b"w rig worker 4.14.1"), _sealed("syn_i_w_m_p", b"") + _sealed("echo", b"x" * 900)],
        [build_header(1, 5, "ok", True), b"-" * 11, b"\xff" * 8],
    ),
    Reader("frames-local", _frames("local-server"), (), [build_header(7, 2, "dapi", False) + b"{}"], [b"\0" * 8]),
    Reader(
        "payloads",
        _all_payloads,
        (),
        [b"w rig worker 4.14.1", b'["digest", "push"]', b"None {}", b"id /queue/cluster/x", b"12"],
    ),
    Reader(
        "errors",
        decode_err_payload,
        (),
        [b'{"__wazuh_exception__": {"__class__": "WazuhError", "__object__": {"code": 1000}}}'],
    ),
    Reader("packages", _package, (HashingError,), _packed(), [b"\x01\x02", b"files_metadata.json"]),
    Reader("metadata", parse_wire_metadata, (HashingError,), [METADATA]),
    Reader(
        "difference",
        parse_wire_difference,
        (HashingError,),
        [b'{"missing": ' + METADATA + b', "shared": {}, "extra": ' + METADATA + b', "extra_valid": {}}'],
    ),
    Reader("told", lambda data: parse_told(data, 1 << 20), (HashingError,), [b"\x04\x22\x4d\x18"]),
    Reader("merged", parse_merged, (HashingError,), [b"7 001 2020-11-23 10:51:23+00:00\ndefault"]),
    Reader(
        "report",
        parse_report,
        (BadString,),
        [b'{"set_data_command": "x", "payload": {}, "chunks": {"syncreq": [{"id": 1}]}}'],
    ),
    Reader(
        "groups",
        parse_groups,
        (BadString,),
        [b'{"set_data_command": "x", "payload": {}, "chunks": ["[{\\"data\\":[]}]"]}'],
    ),
    Reader("chunk", parse_chunk, (BadString,), [b'[{"data":[{"id":1,"groups":["default"]}],"hash":"x"}]']),
    Reader(
        "authd",
        _text(auth_request.parse_request),
        (auth_request.AuthdError,),
        [b'{"function":"add","arguments":{"name":"a","ip":"any","groups":"default","force":{"enabled":true}}}'],
    ),
    Reader(
        "wdb-json", _text(lambda text: parse(text, dict)), (JsonRefused,), [b'{"id":001,"name":"a","data":[{"id":1}]}']
    ),
    Reader("client-keys", _text(keys.parse_keys), (), [b"001 a any " + b"k" * 64 + b"\n002 !b 10.0.0.1 x\n# c\n"]),
    Reader("dapi-envelope", envelope.read_envelope, (ClusterError,), [DAPI]),
    Reader(
        "dapi-request",
        request.parse_request,
        (ClusterError, WireException),
        [DAPI],
        [b"__callable__", b"__unhandled_exc__"],
    ),
    Reader(
        "ossec-conf",
        lambda data: _configuration(data, b"{}"),
        (),
        [CONF],
        [b"<cluster>", b"<!DOCTYPE x>", b"&#", b"]]>"],
    ),
    Reader("cluster-json", lambda data: _configuration(CONF, data), (), [JSON]),
    Reader(
        "ruleset",
        _text(parse_ruleset),
        (MalformedXml,),
        [b'<group name="a,"><rule id="1" level="3"><match>a &lt; b</match></rule></group>'],
    ),
]
__all__ = ["READERS", "Reader", "parse_query"]
