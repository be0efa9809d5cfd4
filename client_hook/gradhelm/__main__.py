"""``python -m gradhelm`` and the ``gradhelm`` command: the door to the service's command line.

The one place where the hook's room knows another one; it is entered only when the command runs.
"""

from __future__ import annotations


def main() -> int:
    """Runs the command line; the exit code."""
    from gradhelm_server.cli import main as command_line

    return int(command_line() or 0)


if __name__ == "__main__":
    raise SystemExit(main())
