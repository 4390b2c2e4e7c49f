"""The framework process: runs in the Python of the installed framework, where no other module of clusterd can be
imported.

One file, the standard library, and the framework's interface as in docs/protocol/framework.md. Python 3.9 or newer.
The supervisor starts it (clusterd/supervisor/helpers.py) with descriptor 3 as one end of a socket pair; sync has the
other one (clusterd/sync/ports/framework_helper.py), and imports this module for FRAME, the kinds and the limits.

A frame is FRAME (length of the payload, kind, number of the request) and the payload. Numbers are sync's.

    to us     SETUP    JSON: names, mask, answer_bytes, inline_bytes, threads. The first frame, once
              REQUEST  JSON (out, path, offset, size), a line feed, the API request unless it lies in the file `path`
    from us   HELLO    JSON: python, version, has_marker, names, missing
              CANNOT   a text: why the framework cannot be used
              ANSWER   the answer's JSON
              FILE     the size in decimal of an answer that was written to `out`
              REFUSED  a text: nothing was called
              LARGE    a text: the function ran, and its answer is not taken
              FAILED   a text for the log: neither answer nor exception of the framework's

When sync closes its end, or at SIGTERM, requests under way get END_S seconds, then the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import re
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

FRAME = struct.Struct("!IBI")
SETUP, REQUEST = 1, 2
HELLO, CANNOT, ANSWER, FILE, REFUSED, LARGE, FAILED = 11, 12, 13, 14, 15, 16, 17
MOST_PAYLOAD = 1 << 20
MOST_DEPTH = 64
"""Most levels of nesting of a request, as in clusterd/wire/results.py."""
MOST_REQUEST = 8 << 20
SOCKET_FD = 3
END_S = 4.0
PIECE = 5000
"""Values that are encoded at once. No other thread runs meanwhile, for about a millisecond."""
PIECE_CHARACTERS = 1 << 20
PIECE_LEVELS = 16
"""Values at deeper levels are not divided into pieces."""
LONG_LIST = 256
SAMPLE = 8
"""Of a longer list every so many items are looked into, and those that are long themselves: the rest is taken to be
like them."""
LONG_ITEM = 256
MASK = "*****"
CALLABLE = "__callable__"
MARKERS = frozenset({CALLABLE, "__unhandled_exc__", "__wazuh_exception__", "__wazuh_result__"})
"""Objects that the framework's decoder looks up or builds. Arguments need only dates."""
MEMBERS = (
    "request_type",
    "basic_services",
    "rbac_permissions",
    "current_user",
    "broadcasting",
    "nodes",
    "api_timeout",
    "remove_denied_nodes",
)
"""Members of a request that are passed on unchanged; an absent or null one is left to the framework's default."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class CallRefused(Exception):
    """This process does not run such a request. The text is for the asker; nothing was called."""


class TooLarge(Exception):
    """The answer is larger than the limit."""


# ---- requests --------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> dict[str, Any]:
    """Returns the members of an API request, with `f` as its raw object. Raises Refused for invalid JSON, too deep
    nesting, or one of MARKERS anywhere but in `f`, even in a member that a later one of the same name replaces."""
    if len(data) > MOST_REQUEST:
        raise CallRefused(f"a request of {len(data)} bytes is above the limit of {MOST_REQUEST}")
    _check_depth(data)
    marked: list[dict[str, Any]] = []

    def look(found: dict[str, Any]) -> dict[str, Any]:
        if not MARKERS.isdisjoint(found):
            marked.append(found)
        return found

    try:
        request = json.loads(data.decode("utf-8"), object_hook=look)
    except (ValueError, RecursionError) as failure:
        raise CallRefused(f"the request is no JSON: {str(failure)[:200]}") from None
    if not isinstance(request, dict) or not isinstance(request.get("f"), dict):
        raise CallRefused("a request is an object that names its function in f")
    if [id(found) for found in marked] != [id(request["f"])]:
        raise CallRefused("functions, exceptions and results are not taken inside of a request")
    return request


def _check_depth(data: bytes) -> None:
    """Checks the nesting before any recursive code reads the request. Of invalid JSON, the brackets before the first
    mistake count."""
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth = 0
    for sign in b"".join(unescaped.split(b'"')[::2]).translate(None, _NO_BRACKETS):
        depth += 1 if sign in b"[{" else -1
        if depth > MOST_DEPTH:
            raise CallRefused(f"the request is nested deeper than {MOST_DEPTH} levels")


def name_of(request: dict[str, Any]) -> tuple[str, str]:
    """Returns module and qualified name of the function. Raises Refused."""
    named = request["f"].get(CALLABLE)
    if not isinstance(named, dict) or named.get("__wazuh__") is not None:
        raise CallRefused("f names no function")
    module, name = named.get("__module__"), named.get("__qualname__")
    if not isinstance(module, str) or not isinstance(name, str):
        raise CallRefused("f names no function")
    return module, name


def values_of(arguments: dict[str, Any], as_object: Any) -> dict[str, Any]:
    """Returns the arguments with marked objects (dates) replaced by the values they stand for. They contain none of
    MARKERS: see `parse`."""
    if not _has_marker(arguments):
        return arguments
    found: dict[str, Any] = json.loads(json.dumps(arguments), object_hook=as_object)
    return found


def _has_marker(arguments: dict[str, Any]) -> bool:
    todo: list[Any] = [arguments]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if any(key.startswith("__") for key in value):
                return True
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
    return False


# ---- answers ---------------------------------------------------------------------------------------------------------


class Writer:
    """Writes an answer as JSON, as json.dumps does with the framework's encoder, but in pieces, so that other requests
    can run in between. `mask`: texts that no answer may contain."""

    def __init__(self, encoder: type[json.JSONEncoder], mask: list[str], most_bytes: int, inline_bytes: int) -> None:
        self._class = encoder
        # Patterns: str.replace needs ten times as long for some answers, 3 ms a MiB.
        self._mask = _any_of(mask)
        self._encoded_mask = _any_of(json.dumps(text)[1:-1] for text in mask)
        self._most = most_bytes
        self._inline = inline_bytes

    def write(self, answer: Any, out: str) -> tuple[int, bytes]:
        """Returns kind and payload of the frame. A large answer is written to the new file `out`. Raises TooLarge,
        OSError, and any exception of the encoder; then there is no file."""
        held: list[bytes] = []
        size, fd = 0, -1
        try:
            for piece in self._pieces(answer):
                data = _without(self._encoded_mask, piece).encode("ascii")
                size += len(data)
                if size > self._most:
                    raise TooLarge(f"the answer has more than {self._most} bytes: ask for less at a time")
                held.append(data)
                if size > self._inline:
                    if fd < 0:
                        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)
                    _write_all(fd, b"".join(held))
                    held.clear()
        except BaseException:
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.unlink(out)
            raise
        finally:
            if fd >= 0:
                os.close(fd)
        return (FILE, str(size).encode()) if fd >= 0 else (ANSWER, b"".join(held))

    def _pieces(self, answer: Any) -> Iterator[str]:
        encoder = self._class()
        for _ in range(4):
            if answer is None or isinstance(answer, (dict, list, tuple, str, int, float)):
                break
            answer = encoder.default(answer)
        heavy: dict[int, int] = {}
        weigh(answer, PIECE_LEVELS, heavy)
        return self._value(encoder, answer, heavy)

    def _value(self, encoder: json.JSONEncoder, value: Any, heavy: dict[int, int]) -> Iterator[str]:
        """Divides only large values; everything else is encoded in one call."""
        if id(value) not in heavy or type(encoder).encode is not json.JSONEncoder.encode:
            yield encoder.encode(value)
        elif isinstance(value, dict):
            yield from self._members(encoder, value, heavy)
        elif isinstance(value, (list, tuple)):
            yield from self._items(encoder, value, heavy)
        else:
            yield from self._text(encoder, value)

    def _text(self, encoder: json.JSONEncoder, value: str) -> Iterator[str]:
        value = _without(self._mask, value)
        yield '"'
        for start in range(0, len(value), PIECE_CHARACTERS):
            yield encoder.encode(value[start : start + PIECE_CHARACTERS])[1:-1]
        yield '"'

    def _members(self, encoder: json.JSONEncoder, value: dict[Any, Any], heavy: dict[int, int]) -> Iterator[str]:
        yield "{"
        between, light, most = "", {}, _light_at_once(value, heavy)
        for key, member in value.items():
            is_heavy = id(member) in heavy and type(key) is str
            if not is_heavy:
                light[key] = member
            if light and (is_heavy or len(light) >= most):
                yield between + encoder.encode(light)[1:-1]
                between, light = ", ", {}
            if is_heavy:
                yield f"{between}{encoder.encode(key)}: "
                yield from self._value(encoder, member, heavy)
                between = ", "
        if light:
            yield between + encoder.encode(light)[1:-1]
        yield "}"

    def _items(self, encoder: json.JSONEncoder, value: Any, heavy: dict[int, int]) -> Iterator[str]:
        yield "["
        between, light, most = "", [], _light_at_once(value, heavy)
        for item in value:
            is_heavy = id(item) in heavy
            if not is_heavy:
                light.append(item)
            if light and (is_heavy or len(light) >= most):
                yield between + encoder.encode(light)[1:-1]
                between, light = ", ", []
            if is_heavy:
                yield between
                yield from self._value(encoder, item, heavy)
                between = ", "
        if light:
            yield between + encoder.encode(light)[1:-1]
        yield "]"


def weigh(value: Any, levels: int, heavy: dict[int, int]) -> int:
    """Estimates the number of values inside this one, long texts by their length, down to so many levels. Notes in
    `heavy` the weight of those from PIECE on, by id."""
    total, share = 1, 1
    if isinstance(value, dict):
        total += len(value)
        inside: Any = value.values()
    elif isinstance(value, (list, tuple)):
        inside = value
        if len(value) > LONG_LIST:
            inside, share = value[::SAMPLE], SAMPLE
            for one in value:
                if isinstance(one, (str, dict, list, tuple)) and len(one) >= LONG_ITEM:
                    inside, share = value, 1
                    break
    else:
        inside = ()
        if isinstance(value, str):
            total += len(value) // 64
    for one in inside:
        kind = type(one)
        if kind is str:
            total += 1 + len(one) // 64
            if len(one) >= 64 * PIECE:
                heavy[id(one)] = len(one) // 64
        elif kind is int or kind is bool or kind is float or one is None:
            total += 1
        elif levels:
            total += weigh(one, levels - 1, heavy)
    total *= share
    if total >= PIECE:
        heavy[id(value)] = total
    return total


def _light_at_once(value: Any, heavy: dict[int, int]) -> int:
    """How many of the light values inside a heavy one make a piece, by what they weigh on average."""
    inside = value.values() if isinstance(value, dict) else value
    own = heavy[id(value)] - sum(heavy.get(id(one), 0) for one in inside)
    return max(1, len(value) * PIECE // max(1, own))


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Returns a pattern of these texts; empty ones count for nothing. None: there are none."""
    found = [re.escape(text) for text in texts if text]
    return re.compile("|".join(found)) if found else None


def _without(mask: re.Pattern[str] | None, text: str) -> str:
    return text if mask is None else mask.sub(MASK, text)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


# ---- the framework ---------------------------------------------------------------------------------------------------


class NodeFacts:
    """The node's facts that the framework asks for."""

    def __init__(self, cluster_items: dict[str, Any], get_node: Any) -> None:
        self.cluster_items = cluster_items
        self.get_node = get_node


class ImportedFramework:
    """The imported framework. Raises any exception of an import."""

    def __init__(self, names: dict[tuple[str, str], bool]) -> None:
        """`names`: module and qualified name, and whether the function is a coroutine."""
        dapi = importlib.import_module("wazuh.core.cluster.dapi.dapi")
        common = importlib.import_module("wazuh.core.cluster.common")
        cluster = importlib.import_module("wazuh.core.cluster.cluster")
        utils = importlib.import_module("wazuh.core.cluster.utils")
        # Without pools, functions run in a thread of this process.
        for pool in list(dapi.pools.values()):
            with contextlib.suppress(Exception):
                pool.shutdown(wait=False)
        dapi.pools.clear()
        self._request = dapi.DistributedAPI
        self.encoder = common.WazuhJSONEncoder
        self._as_object = common.as_wazuh_object
        self._node = NodeFacts(utils.get_cluster_items(), cluster.get_node)
        cluster.get_node()
        self._logger = logging.getLogger("clusterd.framework")
        self.version = _version()
        self.missing: dict[tuple[str, str], str] = {}
        self.functions: dict[tuple[str, str], Any] = {}
        self._coroutines = {name for name, is_coroutine in names.items() if is_coroutine}
        for name in names:
            try:
                self.functions[name] = _find(*name)
            except (
                Exception,
                SystemExit,
            ) as failure:  # an import may raise anything: this name is missing, no other one
                self.missing[name] = f"{type(failure).__name__}: {failure}"[:200]
        self.has_marker = any(_is_exposed(function) for function in self.functions.values())
        if self.has_marker:
            for name in [name for name, function in self.functions.items() if not _is_exposed(function)]:
                del self.functions[name]
                self.missing[name] = "is not marked as one that may be asked for"

    def function(self, name: tuple[str, str]) -> Any:
        """Returns the function. Raises Refused if the daemon does not allow it or the framework lacks it."""
        function = self.functions.get(name)
        if function is None:
            why = self.missing.get(name, "is not one that is asked for over the cluster")
            raise CallRefused(f"{'.'.join(name)[:200]} {why}")
        return function

    async def run(self, name: tuple[str, str], request: dict[str, Any]) -> Any:
        """Returns or raises the function's result in the framework's own types. sync keeps the time limit: it ends this
        process."""
        function = self.function(name)
        arguments = {key: request[key] for key in MEMBERS if request.get(key) is not None and request[key] != []}
        if request.get("f_kwargs") is not None:
            if not isinstance(request["f_kwargs"], dict):
                raise CallRefused("f_kwargs is no object")
            arguments["f_kwargs"] = values_of(request["f_kwargs"], self._as_object)
        if request.get("local_client_arg") is not None:
            raise CallRefused("a function that asks the daemon itself is not run here")
        call = self._request(
            f=function,
            logger=self._logger,
            node=self._node,
            from_cluster=True,
            wait_for_complete=True,
            is_async=name in self._coroutines or _is_coroutine(function),
            **arguments,
        )
        return await call.distribute_function()


def _find(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if not callable(found) or inspect.isclass(found):
        raise TypeError("is no function")
    return found


def _is_exposed(function: Any) -> bool:
    return bool(getattr(function, "__wazuh_exposed__", False))


def _is_coroutine(function: Any) -> bool:
    """Tells whether the function is a coroutine, regardless of the request."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(function))


def _version() -> str:
    found = getattr(importlib.import_module("wazuh"), "__version__", None)
    if isinstance(found, str):
        return found
    try:
        return importlib.metadata.version("wazuh")
    except importlib.metadata.PackageNotFoundError:
        return ""


# ---- the process -----------------------------------------------------------------------------------------------------


class Threads(ThreadPoolExecutor):
    """Runs functions. A function that forks and returns in the child too does not continue our work there."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(_in_this_process, os.getpid(), fn, *args, **kwargs)


def _in_this_process(pid: int, fn: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return fn(*args, **kwargs)
    finally:
        if os.getpid() != pid:
            os._exit(0)


class Process:
    """Serves sync until sync closes its end, or until SIGTERM."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._running: set[asyncio.Task[None]] = set()
        self._is_ending = False

    def prepare(self) -> bool:
        """Imports everything, and sends hello or the reason why not. Returns whether the process can serve."""
        setup = json.loads(self._read_first())
        try:
            self._framework = ImportedFramework({(module, name): kind for module, name, kind in setup["names"]})
            self._writer = Writer(self._framework.encoder, setup["mask"], setup["answer_bytes"], setup["inline_bytes"])
        except BaseException as failure:
            text = f"{type(failure).__name__}: {failure}"
            self._connection.sendall(_frame(CANNOT, 0, text[:2000].encode("utf-8", "replace")))
            return False
        hello = {
            "python": ".".join(str(part) for part in sys.version_info[:3]),
            "version": self._framework.version,
            "has_marker": self._framework.has_marker,
            "names": list(self._framework.functions),
            "missing": [[*name, why] for name, why in self._framework.missing.items()],
        }
        self._threads = Threads(setup["threads"], "function")
        self._encoding = Threads(2, "encoding")
        self._connection.sendall(_frame(HELLO, 0, json.dumps(hello).encode()))
        return True

    def _read_first(self) -> bytes:
        with self._connection.makefile("rb", buffering=0) as file:
            head = _read_exactly(file, FRAME.size)
            size, kind, _ = FRAME.unpack(head)
            if kind != SETUP:
                raise EOFError
            return _read_exactly(file, size)

    def serve(self) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.set_default_executor(self._threads)
        loop.add_signal_handler(signal.SIGTERM, self._end)
        self._loop = loop
        self._work = loop.create_task(self._read())
        while True:
            try:
                loop.run_forever()
                return
            except (SystemExit, KeyboardInterrupt):
                continue  # raised by a function that had a task of its own

    async def _read(self) -> None:
        self._connection.setblocking(False)
        reader, self._stream = await asyncio.open_unix_connection(sock=self._connection, limit=MOST_PAYLOAD)
        try:
            while True:
                size, kind, number = FRAME.unpack(await reader.readexactly(FRAME.size))
                payload = await reader.readexactly(size)
                if kind == REQUEST:
                    task = self._loop.create_task(self._serve(number, payload))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
        except (asyncio.IncompleteReadError, OSError):
            pass
        self._end()

    def _end(self) -> None:
        """Ends the process. Discards all output from here on, because its reader may be gone."""
        if self._is_ending:
            return
        self._is_ending = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        self._last = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        if self._running:
            await asyncio.wait(list(self._running), timeout=END_S)
        os._exit(0)  # a function that still runs cannot be cancelled

    async def _serve(self, number: int, payload: bytes) -> None:
        try:
            kind, answer = await self._answer(payload)
        except CallRefused as refusal:
            kind, answer = REFUSED, str(refusal).encode("utf-8", "replace")
        except TooLarge as refusal:
            kind, answer = LARGE, str(refusal).encode("utf-8", "replace")
        except BaseException as failure:  # a function may raise anything, SystemExit too
            kind, answer = FAILED, f"{type(failure).__name__}: {failure}"[:2000].encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            self._stream.write(_frame(kind, number, answer))
            await self._stream.drain()

    async def _answer(self, payload: bytes) -> tuple[int, bytes]:
        head, _, data = payload.partition(b"\n")
        where = json.loads(head)
        if where["path"]:
            data = await self._loop.run_in_executor(self._encoding, _read_part, where)
        request = await self._loop.run_in_executor(self._encoding, parse, data)
        answer = await self._framework.run(name_of(request), request)
        return await self._loop.run_in_executor(self._encoding, self._writer.write, answer, where["out"])


def _read_part(where: dict[str, Any]) -> bytes:
    if where["size"] > MOST_REQUEST:
        raise CallRefused(f"a request of {where['size']} bytes is above the limit of {MOST_REQUEST}")
    with open(where["path"], "rb") as file:
        file.seek(where["offset"])
        return file.read(where["size"])


def _read_exactly(file: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = file.read(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _frame(kind: int, number: int, payload: bytes) -> bytes:
    return FRAME.pack(len(payload), kind, number) + payload


def main() -> int:
    """Runs the program: `python3 -I -B -u - ROOT PARENT NAME`; its source is read from descriptor 0."""
    root, parent, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        return 1  # it died before the line above: nobody would ever end this process
    libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    if not os.environ.get("CLUSTERD_DEBUGGABLE"):
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # the framework reads the cluster's key
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))  # only the network process may take a higher priority
    os.chdir(root)
    sys.path += [f"{root}/framework", f"{root}/api"]  # where a source tree has the packages
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    connection = socket.socket(fileno=SOCKET_FD)
    connection.set_inheritable(False)
    os.register_at_fork(after_in_child=connection.close)
    process = Process(connection)
    try:
        if not process.prepare():
            return 1
    except (EOFError, OSError):
        return 0  # sync is gone
    process.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
