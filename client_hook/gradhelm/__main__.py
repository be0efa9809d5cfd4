"""``python -m gradhelm`` and the ``gradhelm`` command: the door to the service's command line.

The one place where the hook's room knows another one; it is entered only when the command runs.
"""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line and exits with its code."""
    from gradhelm_server.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
