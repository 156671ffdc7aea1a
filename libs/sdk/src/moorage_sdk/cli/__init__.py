"""The `moorage` command. Heavy libraries are imported by the commands that need them, so that `--help` is quick."""

import sys

from moorage_sdk.errors import SdkError


def main() -> None:
    """Run the command; a failure is one line on stderr that says what to do, and exit status 1."""
    from moorage_sdk.cli.app import app  # noqa: PLC0415 - importing the package does nothing

    try:
        app()
    except SdkError as error:
        sys.stderr.write(f"moorage: {' '.join(str(error).split())}\n")
        raise SystemExit(1) from None
