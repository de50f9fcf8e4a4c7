"""Bad arguments of the response loop: refused where they are given, by their name."""

from collections.abc import Callable
from typing import Any

import pytest

from reasoning_sdk import (
    ConfigurationError,
    LoopConfig,
    MemoryStore,
    NoTools,
    RecordingSink,
    RequestContext,
    ResponseLoop,
    UpstreamTarget,
    run_response_loop,
)
from tests.support.loops import REQUEST, ScriptedStore, add

NOWHERE = UpstreamTarget("http://127.0.0.1:1/v1")
STORE = "store must be a MultiStepStore, got "
EXECUTOR = "tool_executor must be a ToolExecutor, got "
SINK = "must be an EventSink, got "


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": None}, f"{STORE}a NoneType"),
        ({"store": object()}, f"{STORE}an object"),
        ({"store": MemoryStore}, f"{STORE}the class MemoryStore"),
        ({"tool_executor": None}, f"{EXECUTOR}a NoneType"),
        ({"tool_executor": [add]}, f"{EXECUTOR}a list"),
        ({"tool_executor": NoTools}, f"{EXECUTOR}the class NoTools"),
        ({"ctx": {"model": "m"}}, "ctx must be a RequestContext, got a dict"),
        ({"ctx": RequestContext}, "ctx must be a RequestContext, got the class RequestContext"),
        ({"upstream": NOWHERE.url}, "upstream must be an UpstreamTarget, got a str"),
        ({"request_id": 5}, "request_id must be a str, got an int"),
        ({"request_id": None}, "request_id must be a str, got a NoneType"),
        ({"request_id": ""}, "request_id must not be empty, got ''"),
        ({"event_sink": 5}, f"event_sink {SINK}an int"),
        ({"event_sink": RecordingSink}, f"event_sink {SINK}the class RecordingSink"),
        ({"scope_parent": 5}, "scope_parent must be a str, got an int"),
        ({"depth": -1}, "depth must be an int >= 0, got -1"),
        ({"depth": 1.5}, "depth must be an int >= 0, got 1.5"),
        ({"depth": "0"}, "depth must be an int >= 0, got '0'"),
        ({"depth": True}, "depth must be an int >= 0, got True"),
        ({"depth": None}, "depth must be an int >= 0, got None"),
    ],
)
def test_a_bad_argument_of_the_function_is_named(options: dict[str, Any], message: str) -> None:
    store = ScriptedStore({})
    given = {
        "store": store,
        "tool_executor": NoTools(),
        "ctx": RequestContext(),
        "upstream": NOWHERE,
        "request_id": "r",
        **options,
    }
    assert refused(lambda: run_response_loop(**given)) == message
    assert store.asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": MemoryStore}, "store must be a ResponseStore, got the class MemoryStore"),
        (
            {"tools": NoTools},
            "tools must be a ToolExecutor or a list of tools, got the class NoTools",
        ),
        ({"tools": "abc"}, "tools must be a ToolExecutor or a list of tools, got a str"),
        ({"tools": {"add": add}}, "tools must be a ToolExecutor or a list of tools, got a dict"),
        ({"tools": None}, "tools must be a ToolExecutor or a list of tools, got a NoneType"),
        ({"tools": add}, "tools must be a ToolExecutor or a list of tools, got a function"),
        ({"tools": {5}}, "tools[0] must be a function or a ToolExecutor, got 5"),
        ({"tools": [add, None]}, "tools[1] must be a function or a ToolExecutor, got None"),
        ({"tools": [NoTools]}, f"tools[0] must be a function or a ToolExecutor, got {NoTools!r}"),
    ],
)
def test_a_bad_argument_of_a_loop_is_named(options: dict[str, Any], message: str) -> None:
    assert refused(lambda: ResponseLoop(NOWHERE, **options)) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sink": 5}, f"sink {SINK}an int"),
        ({"sink": RecordingSink}, f"sink {SINK}the class RecordingSink"),
        ({"sink": print}, f"sink {SINK}a builtin_function_or_method"),
        ({"extensions": 5}, "extensions must be a mapping, got an int"),
        ({"extensions": []}, "extensions must be a mapping, got a list"),
        ({"request_id": b"r"}, "request_id must be a str, got a bytes"),
        ({"request_id": ""}, "request_id must not be empty, got ''"),
    ],
)
def test_a_bad_argument_of_a_run_is_named_before_anything_is_kept(
    options: dict[str, Any], message: str
) -> None:
    store = MemoryStore()
    with ResponseLoop(NOWHERE, store=store) as loop:
        for method in ("run",) if "sink" in options else ("run", "stream", "sse"):
            assert refused(lambda m=method: getattr(loop, m)(REQUEST, **options)) == message
        assert loop.stats.running == 0
    assert repr(store) == "<MemoryStore responses=0 open=0>"


@pytest.mark.parametrize("agent_events", [5, None, "no"])
def test_whether_agents_are_told_of_is_a_bool(agent_events: Any) -> None:
    said = refused(lambda: LoopConfig(agent_events=agent_events))
    assert said.startswith("agent_events must be a bool, got a")


@pytest.mark.parametrize("key", ["sk-\nsecret", "sk-secret ", "sk-sécret…"])
def test_a_key_that_no_header_can_hold_is_refused_where_it_is_given_and_not_told(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        UpstreamTarget(NOWHERE.url, key)
    said = "api_key must only have characters that HTTP allows in a header"
    assert str(caught.value) == said
    assert "cret" not in f"{caught.value!r}{caught.value.__cause__!r}"
