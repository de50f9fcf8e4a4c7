"""The error tree: its shape, what an error carries, and that all of it survives pickling."""

import copy
import pickle
import re
from typing import Any

import pytest

import reasoning_sdk
from reasoning_sdk import errors
from reasoning_sdk.errors import APIStatusError, ReasoningError

# Every class, with its bases in order. The docstring of the module draws the same.
TREE: dict[str, tuple[str, ...]] = {
    "ReasoningError": ("Exception",),
    "ConfigurationError": ("ReasoningError", "ValueError"),
    "InvalidEventError": ("ReasoningError", "TypeError"),
    "StateError": ("ReasoningError", "RuntimeError"),
    "ConcurrencyError": ("StateError",),
    "TransportError": ("ReasoningError",),
    "ConnectError": ("TransportError",),
    "ConnectTimeoutError": ("ConnectError", "RequestTimeoutError"),
    "RequestTimeoutError": ("TransportError", "TimeoutError"),
    "IdleTimeoutError": ("TransportError", "TimeoutError"),
    "ConnectionLostError": ("TransportError",),
    "APIStatusError": ("ReasoningError",),
    "BadRequestError": ("APIStatusError",),
    "AuthenticationError": ("APIStatusError",),
    "PermissionDeniedError": ("APIStatusError",),
    "UnauthenticatedCloseError": ("AuthenticationError", "ConnectionLostError"),
    "ForbiddenCloseError": ("PermissionDeniedError", "ConnectionLostError"),
    "NotFoundError": ("APIStatusError",),
    "ConflictError": ("APIStatusError",),
    "UnprocessableEntityError": ("APIStatusError",),
    "RateLimitError": ("APIStatusError",),
    "ServerError": ("APIStatusError",),
    "ProtocolError": ("ReasoningError",),
    "ResponseError": ("ReasoningError",),
    "StreamInterruptedError": ("ResponseError", "TransportError"),
    "ResponseFailedError": ("ResponseError",),
    "ResponseIncompleteError": ("ResponseError",),
    "EventSinkError": ("ReasoningError",),
    "ToolError": ("ReasoningError",),
    "ToolNotFoundError": ("ToolError",),
    "ToolExecutionError": ("ToolError",),
    "ToolArgumentsError": ("ToolError",),
    "ToolTimeoutError": ("ToolError",),
    "StoreError": ("ReasoningError",),
    "RecordNotFoundError": ("StoreError",),
    "StorageError": ("StoreError",),
    "SerializationError": ("StoreError",),
    "LeaseLostError": ("StoreError",),
    "LoopError": ("ReasoningError",),
    "LoopFailedError": ("LoopError",),
    "MaxIterationsError": ("LoopError",),
    "MaxDepthError": ("LoopError",),
    "EmptyActionError": ("LoopError",),
    "LoopCanceledError": ("LoopError",),
}

RETRYABLE = {
    "TransportError",
    "ConnectError",
    "ConnectTimeoutError",
    "RequestTimeoutError",
    "IdleTimeoutError",
    "ConnectionLostError",
    "RateLimitError",
    "ServerError",
    "StreamInterruptedError",
}

STATUS: dict[str, Any] = {
    "status_code": 429,
    "body": {"error": {"message": "slow down"}},
    "headers": {"retry-after": "2", "x-request-id": "req_1"},
    "request_id": "req_1",
    "retry_after": 2.0,
    "code": "rate_limit_exceeded",
}
PARTIAL: dict[str, Any] = {"response_id": "resp_1", "items": [{"type": "message"}], "text": "Hel"}

# What the constructors take beside the message; each is kept as the attribute of the same name.
ARGUMENTS: dict[str, dict[str, Any]] = {
    **{name: STATUS for name, bases in TREE.items() if "APIStatusError" in (name, *bases)},
    "InvalidEventError": {"path": "$.choices[2].delta"},
    "ConnectionLostError": {
        "attempts": 3,
        "close_code": 1006,
        "last_error": errors.ConnectError("refused"),
    },
    "UnauthenticatedCloseError": {"close_code": 4001},
    "ForbiddenCloseError": {"close_code": 4003},
    "ResponseError": PARTIAL,
    "StreamInterruptedError": PARTIAL,
    "ResponseFailedError": {"code": "server_error", "retry_after": 1.5, "retryable": True},
    "ResponseIncompleteError": {"reason": "max_output_tokens"},
    "LoopFailedError": {"payload": {"type": "loop_error", "message": "no"}},
}

CLASSES = [getattr(errors, name) for name in TREE]


def made(cls: type[ReasoningError]) -> ReasoningError:
    return cls("what went wrong", **ARGUMENTS.get(cls.__name__, {}))


def state(error: BaseException) -> dict[str, Any]:
    """All that an error says, other errors in it in words."""
    return {
        name: repr(value) if isinstance(value, BaseException) else value
        for name, value in vars(error).items()
    }


def test_the_tree_has_these_classes_and_no_others():
    assert set(errors.__all__) == set(TREE)
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert defined == set(TREE)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_stands_where_the_tree_has_it(cls):
    assert tuple(base.__name__ for base in cls.__bases__) == TREE[cls.__name__]


def test_the_docstring_draws_the_tree_as_it_is():
    parents: list[str] = []
    drawn: dict[str, set[str]] = {}
    for line in errors.__doc__.splitlines():
        names = re.findall(r"\b[A-Z]\w*Error\b", line)
        if line.startswith("    ") and names:
            depth = re.search(r"\w", line).start() // 4 - 1
            own, also = (names, []) if "also" not in line else (names[:1], names[1:])
            for name in own:
                drawn[name] = {*also, *parents[depth - 1 : depth]}
            parents[depth:] = [own[0]]
    expected = {name: set(bases) - {"Exception"} for name, bases in TREE.items()}
    assert drawn == expected


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_can_be_had_from_the_package(cls):
    assert getattr(reasoning_sdk, cls.__name__) is cls
    assert cls.__name__ in reasoning_sdk.__all__


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_says_what_it_is_for(cls):
    assert cls.__doc__
    assert "__doc__" in vars(cls)


@pytest.mark.parametrize("cls", CLASSES)
def test_only_what_may_succeed_unchanged_is_retryable(cls):
    assert cls.retryable is (cls.__name__ in RETRYABLE)
    assert cls("x").retryable is (cls.__name__ in RETRYABLE)


def test_a_failed_response_is_retryable_when_the_service_says_so():
    assert errors.ResponseFailedError("x", retryable=True).retryable
    assert not errors.ResponseFailedError.retryable


# -- attributes --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_can_be_made_from_a_message_or_from_nothing(cls):
    assert str(cls("what went wrong")) == "what went wrong"
    assert str(cls()) == ""


@pytest.mark.parametrize("cls", CLASSES)
def test_arguments_are_kept_as_attributes(cls):
    error = made(cls)
    assert str(error) == "what went wrong"
    for name, value in ARGUMENTS.get(cls.__name__, {}).items():
        assert getattr(error, name) == value


@pytest.mark.parametrize("cls", CLASSES)
def test_nothing_has_arrived_unless_said(cls):
    error = cls("x")
    assert (error.response_id, list(error.items), error.text) == (None, [], "")


def test_attributes_that_are_not_given_are_empty():
    error = APIStatusError("refused")
    assert (error.status_code, error.body, error.headers) == (0, None, {})
    assert (error.request_id, error.retry_after, error.code) == (None, None, None)
    lost = errors.ConnectionLostError("x")
    assert (lost.attempts, lost.close_code, lost.last_error) == (0, None, None)
    failed = errors.ResponseFailedError("x")
    assert (failed.code, failed.retry_after) == (None, None)
    assert errors.ResponseIncompleteError("x").reason is None
    assert errors.InvalidEventError("x").path == "$"
    assert errors.LoopFailedError("x").payload is None


@pytest.mark.parametrize("cls", [APIStatusError, errors.ResponseFailedError])
def test_the_services_own_message_is_apart_from_the_whole_one(cls):
    assert cls("429: slow down", server_message="slow down").message == "slow down"
    assert cls("429: ", server_message="").message == ""
    assert cls("429").message == "429"


def test_headers_are_a_copy():
    headers = {"retry-after": "1"}
    error = APIStatusError("x", headers=headers)
    headers["cookie"] = "secret"
    assert error.headers == {"retry-after": "1"}


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (402, "APIStatusError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (408, "APIStatusError"),
        (409, "ConflictError"),
        (418, "APIStatusError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (499, "APIStatusError"),
        (500, "ServerError"),
        (503, "ServerError"),
        (599, "ServerError"),
        (302, "APIStatusError"),
    ],
)
def test_every_status_has_its_class(status, name):
    assert APIStatusError.for_status(status).__name__ == name


# -- pickle and copy ---------------------------------------------------------------------------

CLONES = {
    **{
        f"pickle {n}": lambda error, n=n: pickle.loads(pickle.dumps(error, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("clone", CLONES)
@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_with_all_it_says(cls, clone):
    error = made(cls)
    for name, value in PARTIAL.items():  # as a ResponseStream puts them on any error
        setattr(error, name, value)
    again = CLONES[clone](error)
    assert type(again) is cls
    assert again.args == error.args
    assert str(again) == str(error)
    assert state(again) == state(error)
    assert again.retryable == error.retryable


@pytest.mark.parametrize("clone", CLONES)
@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_without_a_message_survives_too(cls, clone):
    again = CLONES[clone](cls())
    assert type(again) is cls
    assert state(again) == state(cls())
