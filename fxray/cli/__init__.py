"""The command line. Each command imports what it needs when it runs, so that help is instant."""

from fxray.cli.app import main

__all__ = ["main"]
