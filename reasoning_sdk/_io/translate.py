"""Errors of the libraries below, and of the services, to the errors of this package."""

import http.client
import re
import ssl
import traceback
from base64 import b64decode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_plus, urlsplit

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

__all__ = ["FOREIGN", "Hide", "beginning", "origin", "status_error", "translate"]

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
_SOME_STATUS_LINE = "HTTP/1.1 200"
_STATUS_LINE = re.compile(r"HTTP/1\.\d [1-9]\d\d")
_MAX_TEXT = 2000
_SHORTEST_SECRET = 6
_SECRET_NAME = re.compile(
    r"auth|cookie|key|token|secret|signature|pass|cred|session|jwt|bearer", re.IGNORECASE
)
_USER_OF_URL = re.compile(r"(?<=//)[^/\s]*@")


class Hide:
    """Puts stars in place of what the headers of requests keep secret. One thread at a time.

    Args:
        shortest: Shorter words are no secrets.
    """

    def __init__(self, shortest: int = _SHORTEST_SECRET) -> None:
        self._shortest = shortest
        self._words: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, headers: Mapping[str, Any]) -> None:
        """Take note of the secrets among a request's headers."""
        for name, value in headers.items():
            if _SECRET_NAME.search(name) and isinstance(value, str):
                self.add(value, *value.split()[1:])  # a scheme, such as Bearer, is none
            if name.lower() == "cookie" and isinstance(value, str):
                self.add(*(pair.partition("=")[2] for pair in value.split("; ")))
            if isinstance(value, str) and value[:6].lower() == "basic ":
                with suppress(ValueError):
                    user = b64decode(value[6:]).decode()
                    self.add(user, user.partition(":")[2])

    def learn_query(self, url: str | None) -> None:
        """Take note of a URL's query, and of the secrets among its parameters."""
        query = urlsplit(url or "").query
        self.add(query)
        for pair in query.split("&"):
            name, _, value = pair.partition("=")
            if _SECRET_NAME.search(name):
                self.add(value, unquote_plus(value))

    def add(self, *words: str) -> None:
        """Take note of secrets."""
        self._words |= {word for word in words if len(word) >= self._shortest}
        self._pattern = None

    def __call__(self, value: Any) -> Any:
        """A text or a JSON value without secrets.

        Raises:
            RecursionError: It is nested too deeply.
        """
        if isinstance(value, str):
            return self._compiled().sub("***", value) if self._words else value
        if isinstance(value, list):
            return [self(part) for part in value]
        if isinstance(value, dict):
            return {self(key): self(part) for key, part in value.items()}
        return value

    def inside(self, error: BaseException) -> None:
        """Hide secrets in what an error says."""
        error.args = tuple(map(self, error.args))
        for name, value in vars(error).items():
            if isinstance(value, str):
                setattr(error, name, self(value))

    def _compiled(self) -> re.Pattern[str]:
        if self._pattern is None:  # to compile it costs more than most requests have use for
            words = sorted(self._words, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, words)), re.IGNORECASE)
        return self._pattern


def origin(url: str) -> str:
    """Scheme, host and port of a URL, in one form: what may be told of it."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "an address that cannot be read"
    host = (parts.hostname or "").lower()
    return f"{parts.scheme.lower()}://{f'[{host}]' if ':' in host else host}:{port}"


def beginning(body: bytes | str, size: int = 200) -> str:
    """The beginning of a body, to be shown in an error."""
    body = body[: 4 * size]  # it may be very large
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    text = " ".join(text.split())
    return repr(text if len(text) <= size else text[:size] + "…")


def translate(error: BaseException, where: str, hide: Hide) -> ReasoningError:
    """The error of ours for one of a library below.

    Args:
        error: One of :data:`FOREIGN`. It is to be the new one's cause: what it tells of secrets
            is taken out of it.
        where: The origin that was asked.
        hide: Hides what must not be told, even if the service repeats it.
    """
    for shown in _all_in_traceback(error):
        hide.inside(shown)
        # Theirs have our headers in their frames, and themselves: a cycle that would keep alive
        # what the frames that called them hold, a stream above all.
        traceback.clear_frames(shown.__traceback__)
    chain = list(_causes(error))

    def found(*kinds: type[BaseException]) -> BaseException | None:
        return next((exc for exc in chain if isinstance(exc, kinds)), None)

    reason = _reason(chain)
    if found(*_UNUSABLE) or (type(error) is OSError and error.errno is None):  # no CA bundle there
        return ConfigurationError(f"cannot make a request to {where}: {reason}")
    if found(ssl.SSLCertVerificationError):
        wrong = ConnectError(f"the certificate of {where} cannot be trusted: {reason}")
        wrong.retryable = False
        return wrong
    if found(*_NO_CONNECTION):  # before time-outs: urllib3 has one of these derive from them
        return ConnectError(f"cannot connect to {where}: {reason}")
    if found(requests.ConnectTimeout, urllib3_errors.ConnectTimeoutError):
        return ConnectTimeoutError(f"no connection to {where} in time")
    if found(requests.Timeout, urllib3_errors.ReadTimeoutError, TimeoutError):
        return RequestTimeoutError(f"no answer from {where} in time")
    unreadable = found(*_UNREADABLE) or any(type(e) is http.client.HTTPException for e in chain)
    lost = found(http.client.RemoteDisconnected) or any(map(_is_cut_status_line, chain))
    if unreadable and not lost:
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


def _all_in_traceback(error: BaseException) -> list[BaseException]:
    found = [error]
    for exc in found:
        near = (getattr(exc, "reason", None), exc.__cause__, exc.__context__, *exc.args)
        found += [e for e in near if isinstance(e, BaseException) and e not in found]
    return found


def _is_cut_status_line(error: BaseException) -> bool:
    """Whether what cannot be read is the beginning of a status line, and no more of it came."""
    if not isinstance(error, http.client.BadStatusLine):
        return False
    line = str(error)
    return bool(_STATUS_LINE.fullmatch(line + _SOME_STATUS_LINE[len(line) :]))


def _reason(chain: list[BaseException]) -> str:
    innermost = chain[-1]
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror.lower()
    if isinstance(innermost, http.client.IncompleteRead) or _is_cut_status_line(innermost):
        return "it ended in the middle"
    text = _USER_OF_URL.sub("***@", " ".join(str(innermost).split()))
    return text[:300] or type(innermost).__name__


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, hide: Hide, now: float
) -> APIStatusError:
    """The error for an answer that is not a success.

    Args:
        status: The HTTP status.
        headers: The answer's headers, names in lower case.
        body: The answer's body, or its beginning.
        hide: Hides what must not be told, even if the service repeats it.
        now: Wall-clock seconds since the epoch.
    """
    try:
        content = hide(parse_json(body))
    except (ValueError, RecursionError):
        content = hide(body.decode("utf-8", "replace"))[:_MAX_TEXT]
    headers = {hide(name): hide(value) for name, value in headers.items() if name != "set-cookie"}
    code, message = _code_and_message(content)
    if not message and "location" in headers:
        where = headers["location"]
        where = origin(where) if "//" in where else "another path"
        message = f"a redirect to {where} that is not followed"
    request_id = headers.get("x-request-id") or headers.get("request-id")
    text = f"{status} {_phrase(status)}"
    if message:
        text += f": {' '.join(message.split())[:_MAX_TEXT]}"
    if request_id:
        text += f" (request id {request_id})"
    text = hide(text).encode("utf-8", "backslashreplace").decode()  # else no log could be written
    return APIStatusError.for_status(status)(
        text,
        status_code=status,
        body=content,
        headers=headers,
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


def _code_and_message(content: Any) -> tuple[str | None, str]:
    """Find the service's code and message in the forms that services give them.

    These are ``{"error": {"code", "message"}}``, ``{"error": code}`` with ``message`` or
    ``details``, whatever they are, ``{"error": message}``, ``{"detail"}`` with a text or a list of
    ``{"loc", "msg"}``, and plain text.
    """
    if not isinstance(content, dict):
        return None, beginning(content)[1:-1] if isinstance(content, str) else ""
    error, detail = content.get("error"), content.get("detail")
    if isinstance(error, dict):
        code = error.get("code") or error.get("type")
        message = error.get("message")
    else:
        is_code = type(error) in (str, int) and ("message" in content or "details" in content)
        code = content.get("code") or (is_code and error) or None
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
        path = part.get("loc") if isinstance(part, dict) else None
        text = str(part.get("msg", part) if isinstance(part, dict) else part)
        where = ".".join(map(str, path if isinstance(path, list) else [path]))
        parts.append(f"{where}: {text}" if path else text)
    return "; ".join(parts)
