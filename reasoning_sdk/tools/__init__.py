"""The tools that a model can call: Python functions, endpoints over HTTP, agents.

Any number of them can be combined.
"""

from reasoning_sdk.tools.agents import AgentTools
from reasoning_sdk.tools.combined import CombinedTools, NoTools
from reasoning_sdk.tools.functions import Context, FunctionTools
from reasoning_sdk.tools.http import HTTPTools

__all__ = ["AgentTools", "CombinedTools", "Context", "FunctionTools", "HTTPTools", "NoTools"]
