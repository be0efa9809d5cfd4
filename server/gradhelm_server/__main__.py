"""``python -m gradhelm_server`` is the ``gradhelm`` command."""

from .cli import main

if __name__ == "__main__":
    main()
