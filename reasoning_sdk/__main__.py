"""``python -m reasoning_sdk`` and the script ``reasoning-sdk``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say what it lacks."""
    try:
        from reasoning_sdk.cli import app  # noqa: PLC0415  # needs the extra
    except ModuleNotFoundError as exc:
        if exc.name not in ("typer", "rich"):
            raise
        sys.exit(
            f"the command line needs {exc.name}: install it with\n"
            "    pip install 'reasoning_sdk[cli]'"
        )
    app(prog_name="reasoning-sdk")


if __name__ == "__main__":
    main()
