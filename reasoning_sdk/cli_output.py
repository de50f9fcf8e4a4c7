"""What the commands say beside their output, and what of a server's may reach a terminal."""

import os
import re
import sys
from typing import TextIO

from rich.console import Console
from rich.text import Text

__all__ = ["complain", "forget", "tell", "visible"]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def complain(problem: str, kind: str = "error", colour: str = "red") -> None:
    """Say on standard error what is wrong."""
    tell(Text.assemble((kind, colour), f": {visible(problem)}"))


def tell(line: Text) -> None:
    """Write a line to standard error."""
    try:
        Console(stderr=True).print(line, soft_wrap=True)
    except OSError:  # there is nobody to tell; the exit code still does
        forget(sys.stderr)


def visible(text: str) -> str:
    """Text of a server's that a terminal shows and does not obey."""
    return _CONTROL.sub("�", text)


def forget(file: TextIO) -> None:
    """Drop what is still in a buffer and cannot be written: Python would say so at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
