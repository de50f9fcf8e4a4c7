"""The documentation: its code runs, and it says what the package has."""

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import reasoning_sdk
from reasoning_sdk import HTTPTools, ResponseLoop, ResponsesClient, ViewerClient, cli
from tests.support.counting import CountingServer
from tests.support.llmock import LlmockServer
from tests.support.websocket_peer import WebSocketPeer

PROJECT = Path(__file__).resolve().parents[1]
DOCS = PROJECT / "docs"
PAGES = [PROJECT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("*/*.md"))]

#: The README has no marks: its second block goes on with a client that the first has closed.
MODES = {"README.md": "compile"}
MARK = re.compile(r"<!-- python: (run|compile) -->")
FENCE = re.compile(r"```(\{?[\w-]*\}?)")


class Block(NamedTuple):
    language: str
    line: int
    code: str
    mode: str | None


def blocks_of(page: Path) -> Iterator[Block]:
    """The code blocks of a page; each has the mode of the last mark above it."""
    mode = MODES.get(page.name)
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        if mark := MARK.fullmatch(line.strip()):
            mode = mark[1]
        elif fence := FENCE.match(line):
            code = []
            for _, inner in lines:
                if inner.startswith("```"):
                    break
                code.append(inner)
            yield Block(fence[1], number, "\n".join(code) + "\n", mode)


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def python_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python"]


WITH_PYTHON = [page for page in PAGES if python_of(page)]


def compiled(page: Path, block: Block) -> Any:
    # The lines of errors are those of the page.
    return compile("\n" * block.line + block.code, name_of(page), "exec", dont_inherit=True)


@contextmanager
def closing_all(monkeypatch: pytest.MonkeyPatch, *kinds: type[Any]) -> Iterator[None]:
    """Close the clients that are made meanwhile, the last one first."""
    with ExitStack() as made:
        for kind in kinds:

            def init(self: Any, *args: Any, make: Any = kind.__init__, **options: Any) -> None:
                make(self, *args, **options)
                made.callback(self.close)

            monkeypatch.setattr(kind, "__init__", init)
        yield


@pytest.mark.http
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_code_of_a_page_runs(
    page: Path,
    llmock_server: LlmockServer,
    websocket_peer: WebSocketPeer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("WEBSOCKET_URL", f"{websocket_peer.ws_url}/echo")
    monkeypatch.setenv("OPENAI_BASE_URL", llmock_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("logging.basicConfig", lambda **options: None)
    names: dict[str, Any] = {"__name__": "page"}
    closed = (ResponsesClient, ViewerClient, ResponseLoop, HTTPTools)
    with CountingServer() as viewer, closing_all(monkeypatch, *closed):
        monkeypatch.setenv("VIEWER_ADDRESS", viewer.url)
        monkeypatch.setenv("VIEWER_SIGNATURE", "test-secret")
        for block in python_of(page):
            assert block.mode, f"{name_of(page)}:{block.line}: say whether it runs or compiles"
            code = compiled(page, block)
            if block.mode == "run":
                exec(code, names)


def test_most_pages_have_code_that_runs() -> None:
    running = {page for page in WITH_PYTHON for block in python_of(page) if block.mode == "run"}
    assert len(running) >= 8


def test_what_a_page_says_that_code_prints_is_what_it_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = DOCS / "how-to" / "retries-and-timeouts.md"
    (block,) = [block for block in python_of(page) if "policy.delays()" in block.code]
    exec(compiled(page, block), {"RetryPolicy": reasoning_sdk.RetryPolicy})
    assert f"This prints `{capsys.readouterr().out.strip()}`." in page.read_text()


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_code_of_a_page_imports_public_names_only(page: Path) -> None:
    for block in python_of(page):
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.ImportFrom) and node.module == "reasoning_sdk":
                assert {name.name for name in node.names} <= set(reasoning_sdk.__all__)
            elif isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith("reasoning_sdk.")


def command_lines() -> list[tuple[str, list[str]]]:
    found = []
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "console":
                for line in block.code.splitlines():
                    words = shlex.split(line.removeprefix("$ ").partition("#")[0])
                    if "reasoning-sdk" in words:
                        arguments = words[words.index("reasoning-sdk") + 1 :]
                        end = [arguments.index(word) for word in arguments if word in set("|<>")]
                        found.append((name_of(page), arguments[: min(end, default=None)]))
    return found


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(cli.app)
    return dict(group.commands)


@pytest.mark.parametrize(("page", "arguments"), command_lines(), ids=lambda value: str(value)[:60])
def test_the_command_lines_of_the_pages_can_be_given(page: str, arguments: list[str]) -> None:
    name, *rest = arguments
    context = commands()[name].make_context(name, list(rest))
    context.close()


def test_the_reference_has_every_command_option_and_exit_code() -> None:
    text = (DOCS / "reference" / "command-line.md").read_text()
    for name, command in commands().items():
        assert f"### `reasoning-sdk {name}" in text
        for parameter in command.params:
            for option in parameter.opts:
                is_argument = parameter.param_type_name == "argument"
                assert is_argument or f"`{option}" in text or option == "--help"
    constants = {name: n for name, n in vars(cli).items() if name.isupper() and type(n) is int}
    codes = {number for name, number in constants.items() if not name.startswith("_")}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == {0, *codes}
    assert {int(code) for code in re.findall(r"[:;] (\d+) ", cli.EXIT_CODES)} == {0, *codes}
    for said in (cli.PUBLISH_EXIT_CODES, cli.WATCH_EXIT_CODES):
        found = re.findall(r"[:;] (\d+) ", said)
        assert {int(code) for code in found} == {0, *codes} - {cli.NOT_COMPLETED}


def test_the_reference_has_every_variable_that_is_read() -> None:
    package = Path(inspect.getfile(reasoning_sdk)).parent
    source = "".join(path.read_text() for path in package.rglob("*.py"))
    names = set(re.findall(r"\"((?:OPENAI|REASONING|VIEWER)_[A-Z_]+)\"", source))
    assert len(names) > 8
    text = (DOCS / "reference" / "environment.md").read_text()
    assert {name for name in names if f"| `{name}` |" not in text} == set()


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference" / "api.md").read_text()
    assert "automodule:: reasoning_sdk.errors" in text
    names = set(reasoning_sdk.__all__) - set(reasoning_sdk.errors.__all__)
    assert {name for name in names if f":: reasoning_sdk.{name}\n" not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    targets += re.findall(r"\{literalinclude\} (\S+)", text)
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []
    examples = re.findall(r"`(examples/[\w.]*)`", text)
    assert [name for name in examples if not (PROJECT / name).exists()] == []
