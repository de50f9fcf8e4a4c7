"""Notebooks: what a kernel shows, and that it can be interrupted."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager, start_new_kernel

from tests.support import recordings
from tests.support.model_server import Call, Hang, ModelServer, Say
from tests.support.scripted import ScriptedServer, json_answer, silence, sse
from tests.support.signals import interrupt as interrupt_when_waiting

pytestmark = pytest.mark.http

DEADLINE = 30.0
TEXT = "Hello, <b>bold</b> & 東京!"
ESCAPED = "Hello, &lt;b&gt;bold&lt;/b&gt; &amp; 東京!"

Scripted = Callable[..., ScriptedServer]


class Kernel:
    """A real IPython kernel, a process of its own."""

    def __init__(self) -> None:
        self._manager: KernelManager
        self._manager, self._client = start_new_kernel(kernel_name="python3")

    def connect(self, server: ScriptedServer) -> None:
        self.run(
            "from reasoning_sdk import *\n"
            f"client = ResponsesClient('m', base_url={server.base_url!r}, api_key='')"
        )

    def run(self, code: str, *, interrupt: Callable[[str], bool] | None = None) -> list[Any]:
        """Runs a cell: the contents of its outputs, the reply last.

        Args:
            code: the cell.
            interrupt: given what the cell has printed so far, whether to press the stop button.
        """
        outputs: list[Any] = []
        printed = ""
        request = self._client.execute(code)
        while True:
            message = self._client.get_iopub_msg(timeout=DEADLINE)
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
            printed += content.get("text", "")
            outputs.append(content)
            if interrupt is not None and interrupt(printed):
                interrupt = None
                interrupt_when_waiting(self._manager.provisioner.pid)
        reply: dict[str, Any] = {}  # the start of the kernel may have left another
        while reply.get("parent_header", {}).get("msg_id") != request:
            reply = self._client.get_shell_msg(timeout=DEADLINE)
        return [*outputs, reply["content"]]

    def show(self, code: str) -> dict[str, str]:
        """Runs a cell: what it displays, by MIME type."""
        return next(output["data"] for output in self.run(code) if "data" in output)

    def stop(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.stop()


def test_a_response_is_shown_as_html(kernel: Kernel, scripted: Scripted) -> None:
    answer = recordings.response_object([recordings.message(TEXT)])
    kernel.connect(scripted(json_answer(200, answer)))
    shown = kernel.show("client.create('hi')")
    assert ESCAPED in shown["text/html"]
    assert "<b>" not in shown["text/html"]
    assert ">completed<" in shown["text/html"]
    assert shown["text/plain"].startswith("<Response resp_1 completed items=1 text='Hello, <b>")


def test_a_stream_is_shown_as_html_at_any_time(kernel: Kernel, scripted: Scripted) -> None:
    kernel.connect(scripted(sse(recordings.text_response(TEXT, deltas=2))))
    begun = kernel.show("stream = client.stream('hi')\nnext(stream.text_deltas())\nstream")
    assert ">in progress<" in begun["text/html"]
    assert ESCAPED[:9] in begun["text/html"]
    assert ESCAPED not in begun["text/html"]
    done = kernel.show("stream.until_done()\nstream")
    assert ">completed<" in done["text/html"]
    assert ESCAPED in done["text/html"]
    assert done["text/plain"] == f"<ResponseStream COMPLETED resp_1 items=1 characters={len(TEXT)}>"


def test_a_stream_that_failed_is_shown_with_what_had_arrived(
    kernel: Kernel, scripted: Scripted
) -> None:
    kernel.connect(scripted(sse(recordings.cut_response(TEXT))))
    *_, reply = kernel.run("stream = client.stream('hi')\nstream.until_done()")
    assert reply["ename"] == "StreamInterruptedError"
    shown = kernel.show("stream")["text/html"]
    assert ">interrupted<" in shown
    assert ESCAPED in shown
    assert "stream closed before response.completed" in shown


READ = "stream = client.stream('hi')\nfor text in stream.text_deltas(): print(text, end='')"


@pytest.mark.parametrize("begun", [False, True], ids=["before the headers", "in the stream"])
def test_interrupting_the_kernel_ends_the_stream_and_frees_the_connection(
    kernel: Kernel, scripted: Scripted, begun: bool
) -> None:
    server = scripted(silence(headers=begun, first=recordings.cut_response() if begun else b""))
    kernel.connect(server)

    def waits(printed: str) -> bool:
        server.wait_for_requests(1, DEADLINE)
        return printed == "Hello, wor" if begun else True

    *_, reply = kernel.run(READ, interrupt=waits)
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    server.wait_no_connections(DEADLINE)  # closed by the kernel, which still runs

    server.then(sse(recordings.text_response("And on it goes.")))
    *outputs, reply = kernel.run(READ)
    printed = "".join(output.get("text", "") for output in outputs)
    assert (reply["status"], printed) == ("ok", "And on it goes.")


def test_after_an_interrupt_the_stream_keeps_what_had_arrived(
    kernel: Kernel, scripted: Scripted
) -> None:
    kernel.connect(scripted(silence(first=recordings.cut_response(TEXT))))
    kernel.run(READ, interrupt=lambda printed: printed == TEXT)
    shown = kernel.show("stream")
    assert ESCAPED in shown["text/html"]
    assert ">closed<" in shown["text/html"]
    assert kernel.show("list(stream)")["text/plain"] == "[]"
    *_, reply = kernel.run("stream.until_done()")
    assert reply["ename"] == "StateError"


# -- response loops --------------------------------------------------------------------------------

LOOP = """
from reasoning_sdk import *
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b
def hang() -> None:
    "Heed nothing for a long time."
    import time
    time.sleep(60)
loop = ResponseLoop(UpstreamTarget({url!r}), tools=[add, hang])
GO = {{"model": "m", "input": "go"}}
"""
RUN = "print(loop.run(GO)['output'][-1]['content'][0]['text'])"
STREAM = "stream = loop.stream(GO)\nfor text in stream.text_deltas(): print(text, end='')"

Models = Callable[..., ModelServer]


def printed(outputs: list[Any]) -> str:
    """What a cell has printed; it has not failed."""
    *told, reply = outputs
    assert reply["status"] == "ok", reply
    return "".join(output.get("text", "") for output in told)


@pytest.mark.parametrize("cell", [RUN, STREAM], ids=["run", "stream"])
def test_a_loop_answers_in_a_cell(kernel: Kernel, model_server: Models, cell: str) -> None:
    calls = [("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})]
    model = model_server([Call(*calls), Say("3 and 7")])
    kernel.run(LOOP.format(url=model.url))
    assert printed(kernel.run(cell)).strip() == "3 and 7"
    kernel.run("loop.close()")


@pytest.mark.parametrize("cell", [RUN, STREAM], ids=["run", "stream"])
@pytest.mark.parametrize(
    "turn", [Hang(), Call(("hang", {}), ("add", {"a": 1, "b": 2}))], ids=["model", "tools"]
)
def test_interrupting_the_kernel_ends_a_loop_and_the_next_cell_works(
    kernel: Kernel, model_server: Models, cell: str, turn: Any
) -> None:
    model = model_server([turn, Say("And on it goes.")])
    kernel.run(LOOP.format(url=model.url))

    def waits(_: str) -> bool:
        model.wait_for_requests(1, DEADLINE)
        return True

    *_, reply = kernel.run(cell, interrupt=waits)
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    assert printed(kernel.run(f"{cell}\nloop.close()")).strip() == "And on it goes."
