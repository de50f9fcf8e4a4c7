"""Errors of the libraries below, and of the services, to the errors of this package."""

import http.client
import re
import ssl
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3.exceptions as urllib3_errors

from reasoning_sdk.encoding import parse_json
from reasoning_sdk.errors import (
    APIStatusError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    ProtocolError,
    ReasoningError,
    RequestTimeoutError,
)
from reasoning_sdk.retry import retry_after

__all__ = ["FOREIGN", "beginning", "origin", "status_error", "translate"]

FOREIGN = (requests.RequestException, urllib3_errors.HTTPError, http.client.HTTPException, OSError)

_UNUSABLE = (
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    urllib3_errors.LocationValueError,
)
_UNREADABLE = (
    urllib3_errors.DecodeError,
    urllib3_errors.InvalidHeader,
    http.client.BadStatusLine,
    http.client.LineTooLong,
    http.client.UnknownProtocol,
)
_NO_CONNECTION = (
    urllib3_errors.NewConnectionError,
    urllib3_errors.NameResolutionError,
    urllib3_errors.ProxyError,
    urllib3_errors.SSLError,
    requests.exceptions.ProxyError,
    requests.exceptions.SSLError,
)
_SHORTEST_SECRET = 6


def origin(url: str) -> str:
    """Scheme, host and port of a URL, in one form: what may be told of it."""
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    host = (parts.hostname or "").lower()
    return f"{parts.scheme.lower()}://{f'[{host}]' if ':' in host else host}:{port}"


def beginning(body: bytes | str, size: int = 200) -> str:
    """The beginning of a body, to be shown in an error."""
    text = body[: 4 * size].decode("utf-8", "replace") if isinstance(body, bytes) else body
    text = " ".join(text.split())
    return repr(text if len(text) <= size else text[:size] + "…")


def translate(error: BaseException, where: str) -> ReasoningError:
    """The error of ours for one of a library below.

    Args:
        error: One of :data:`FOREIGN`.
        where: The origin that was asked.
    """
    chain = list(_causes(error))

    def found(*kinds: type[BaseException]) -> BaseException | None:
        return next((exc for exc in chain if isinstance(exc, kinds)), None)

    reason = _reason(chain)
    if found(*_UNUSABLE):
        return ConfigurationError(f"cannot make a request to {where}: {reason}")
    if found(ssl.SSLCertVerificationError):
        wrong = ConnectError(f"the certificate of {where} cannot be trusted: {reason}")
        wrong.retryable = False
        return wrong
    if found(*_NO_CONNECTION):  # before time-outs: urllib3 has one of these derive from them
        return ConnectError(f"cannot connect to {where}: {reason}")
    if found(requests.ConnectTimeout, urllib3_errors.ConnectTimeoutError):
        return ConnectTimeoutError(f"no connection to {where} in time")
    if found(urllib3_errors.ReadTimeoutError, TimeoutError):
        return RequestTimeoutError(f"no answer from {where} in time")
    if found(*_UNREADABLE) and not found(http.client.RemoteDisconnected):
        return ProtocolError(f"what {where} sends cannot be read: {reason}")
    return ConnectionLostError(f"the connection to {where} was lost: {reason}")


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    """An error and those inside it, the outermost first."""
    while error is not None:
        if isinstance(error, requests.RequestException):
            error.request = None  # it holds our headers
        yield error
        inside = (getattr(error, "reason", None), *error.args)
        error = next((e for e in inside if isinstance(e, BaseException)), error.__cause__)


def _reason(chain: list[BaseException]) -> str:
    innermost = chain[-1]
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror.lower()
    if isinstance(innermost, http.client.IncompleteRead):
        return "it ended in the middle"
    return " ".join(str(innermost).split())[:300] or type(innermost).__name__


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str], now: float
) -> APIStatusError:
    """The error for an answer that is not a success.

    Args:
        status: The HTTP status.
        headers: The answer's headers, names in lower case.
        body: The answer's body, or its beginning.
        secrets: What must not be told, even if the service repeats it.
        now: Wall-clock seconds since the epoch.
    """
    hide = _Hide(secrets)
    try:
        content = hide(parse_json(body))
    except ValueError:
        content = hide(body.decode("utf-8", "replace")[:2000])
    code, message = _code_and_message(content)
    if not message and "location" in headers:
        message = f"a redirect to {origin(headers['location'])} that is not followed"
    request_id = headers.get("x-request-id") or headers.get("request-id")
    text = f"{status} {_phrase(status)}"
    if message:
        text += f": {message}"
    if request_id:
        text += f" (request id {request_id})"
    return APIStatusError.for_status(status)(
        hide(text),
        status_code=status,
        body=content,
        headers={name: hide(value) for name, value in headers.items() if name != "set-cookie"},
        request_id=request_id,
        retry_after=retry_after(headers, now),
        code=code,
        server_message=message,
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"


class _Hide:
    """Puts stars in place of secrets, in text and in JSON."""

    def __init__(self, secrets: Iterable[str]) -> None:
        words = {word for secret in secrets for word in (secret, *secret.split())}
        words = {word for word in words if len(word) >= _SHORTEST_SECRET}
        ordered = sorted(words, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, value: Any) -> Any:
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self._pattern.sub("***", value)
        if isinstance(value, list):
            return [self(part) for part in value]
        if isinstance(value, dict):
            return {self(key): self(part) for key, part in value.items()}
        return value


def _code_and_message(content: Any) -> tuple[str | None, str]:
    """Find the service's code and message in the forms that services give them.

    These are ``{"error": {"code", "message"}}``, ``{"error": code, "message"}``, ``{"detail"}``
    with a text or a list of ``{"loc", "msg"}``, and plain text.
    """
    if not isinstance(content, dict):
        return None, beginning(content)[1:-1] if isinstance(content, str) else ""
    error, detail = content.get("error"), content.get("detail")
    if isinstance(error, dict):
        code = error.get("code") or error.get("type")
        message = error.get("message")
    else:
        code = content.get("code") or (error if content.get("message") else None)
        message = content.get("message") or error or _detail(detail)
    return (
        None if code is None else str(code),
        message if isinstance(message, str) else "" if message is None else repr(message)[:300],
    )


def _detail(detail: Any) -> Any:
    if isinstance(detail, dict):
        return detail.get("message") or detail
    if not isinstance(detail, list):
        return detail
    parts = []
    for part in detail:
        path = part.get("loc", ()) if isinstance(part, dict) else ()
        text = part.get("msg", part) if isinstance(part, dict) else part
        parts.append(": ".join((".".join(map(str, path)), str(text))) if path else str(text))
    return "; ".join(parts)
