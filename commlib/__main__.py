"""The door from the shell: `commlib` and `python -m commlib` both come in here.

Nothing is imported before it is needed, so that `commlib --help` answers in well under a second.
"""

import sys


def main() -> None:
    """Run the command line and leave with its exit code: 0 good, 1 a failed check, 2 wrong usage."""
    from commlib.experiments import cli

    sys.exit(cli.main())


if __name__ == "__main__":
    main()
