"""What is wrong with a member of etcd, in words that tell the operator what to do."""

import os
import socket
import ssl
from collections.abc import Iterator

from clusterd.election.gateway import EtcdRefused, EtcdUnavailable, MemberFailed, cut
from clusterd.http_client import httpx

MOST_CAUSES = 20


def member_failed(failure: httpx.HTTPError) -> MemberFailed:
    """Returns the failure that a failed exchange shows."""
    is_sent = not isinstance(failure, httpx.ConnectError)  # which is that of TLS, too
    causes = list(_causes(failure))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return MemberFailed(f"has a certificate that is not trusted: {cause.verify_message}", is_tls=True)
        hangs_up = isinstance(cause, ConnectionResetError | BrokenPipeError)
        if not is_sent and (hangs_up or isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)):
            return MemberFailed("hangs up when TLS begins: it is ending, or speaks no TLS (then write http://)")
        if hangs_up:  # this can overtake the answer that would say why
            why = "does not take this node's certificate" if _has_tls(failure) else "wants TLS (https://)"
            return MemberFailed(f"hangs up at the request: it is ending, or {why}", may_be_done=True)
        if isinstance(cause, ssl.SSLError):
            return MemberFailed(_tls_text(cause.reason or str(cause)), is_tls=True)
    if isinstance(failure, httpx.RemoteProtocolError):
        return MemberFailed(f"is no etcd, or wants TLS (https://): {cut(str(failure))}", may_be_done=True)
    reasons = [_reason(cause) for cause in causes if isinstance(cause, OSError) and cause.strerror]
    return MemberFailed(f"cannot be asked: {reasons[-1] if reasons else failure}", may_be_done=is_sent)


def _has_tls(failure: httpx.HTTPError) -> bool:
    return failure.request.url.scheme == "https"


def _reason(failure: OSError) -> str:
    """The system's own text; asyncio words it differently."""
    number = failure.errno or 0
    return os.strerror(number) if number > 0 and not isinstance(failure, socket.gaierror) else str(failure.strerror)


def _tls_text(reason: str) -> str:
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "speaks no TLS: write http:// in clusterd.ha.etcd.endpoints, better give it certificates"
    if "ALERT" in reason:
        return f"does not take this node's certificate, see clusterd.ha.etcd.cert ({reason})"
    return f"has no TLS for us: {reason}"


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while failure is not None and seen < MOST_CAUSES:
        yield failure
        if isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        else:
            failure = failure.__cause__ or failure.__context__
        seen += 1


def unavailable(failures: dict[str, MemberFailed]) -> Exception:
    """Returns EtcdUnavailable, or EtcdRefused if no member accepts our TLS. `failures`: by address of the member."""
    text = "; ".join(f"{member} {failure}" for member, failure in failures.items())
    if failures and all(one.is_tls for one in failures.values()):
        return EtcdRefused(f"no TLS with etcd: {text}")
    return EtcdUnavailable(f"no member of etcd serves this node: {text}")
