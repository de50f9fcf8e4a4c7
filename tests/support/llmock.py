"""The real ``llmock`` server: Responses and Chat Completions, faults on demand, a verdict.

It records every request and judges how the client took the faults: whether it waited as long as
Retry-After asked, backed off, gave up at once, or retried what cannot succeed. A *call* is all
requests with the same body, each after one that failed.

Its pytest plugin, which would run the server in a thread of this process, is switched off in
setup.cfg (``-p no:llmock``).
"""

import sys
from typing import Any

from tests.support.processes import ServerProcess


class LlmockServer(ServerProcess):
    """``llmock serve`` on a free port. It answers with the text asked for by a ``reply``."""

    name = "llmock"

    def __init__(self) -> None:
        serve = [sys.executable, "-m", "llmock.cli", "serve", "--host", "127.0.0.1"]
        super().__init__(lambda port: [*serve, "--port", str(port), "--log-level", "warning"])

    def scenario(self, behaviors: list[dict[str, Any]]) -> None:
        """Queues behaviours for the requests to come.

        Each is ``{"type": …}`` with ``fail`` (status, retry_after, message, code), ``delay``
        (seconds), ``slow_first_token`` (seconds), ``stream_fault`` (kind ``disconnect``,
        ``truncate``, ``stall`` or ``malformed``; after_chunks, stall_seconds), ``reply`` (text,
        tool_calls ``[{"name", "arguments"}]``, finish_reason) or ``tool_fault`` (kind
        ``malformed_arguments`` or ``unknown_tool``); and ``times`` (1; None: for ever), ``match``.
        """
        self.control("POST", "/_llmock/scenario", json={"behaviors": behaviors})

    def pending(self) -> list[dict[str, Any]]:
        """Behaviours that no request has consumed yet."""
        pending: list[dict[str, Any]] = self.control("GET", "/_llmock/scenario")["pending"]
        return pending

    def requests(self) -> list[dict[str, Any]]:
        """Every request since the reset, in order: status, fault, body, started_at, ended_at, …"""
        records: list[dict[str, Any]] = self.control("GET", "/_llmock/requests")["requests"]
        return records

    def verdict(self) -> dict[str, Any]:
        """The judgement: ``passed``; ``calls``, ``attempts``, ``faults_injected``, ``errors`` and
        ``warnings``, all counts; ``findings``, each with ``severity``, ``code``, ``title``,
        ``advice`` and ``requests``.
        """
        verdict: dict[str, Any] = self.control("GET", "/_llmock/verdict")
        return verdict

    def assert_clean(self) -> dict[str, Any]:
        """Fails with the server's own report unless the verdict has neither errors nor warnings."""
        verdict = self.verdict()
        lines = [f"{f['severity']} {f['code']}: {f['title']}" for f in verdict["findings"]]
        assert not lines, "\n".join(["llmock's verdict on the client:", *lines])
        return verdict

    def reset(self) -> None:
        """Forgets requests and queued behaviours."""
        self.control("POST", "/_llmock/reset")
