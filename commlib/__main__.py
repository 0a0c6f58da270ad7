"""The door from the shell: `commlib` and `python -m commlib` both come in here.

Nothing is imported before it is needed, so that `commlib --help` answers in well under a second.
"""

import sys


def main() -> None:
    """Run the command line and leave with its exit code: 0 good, 1 a failed check, 2 wrong usage."""
    try:
        from commlib.experiments import cli

        code = cli.main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if "--debug" in sys.argv or package in {"", "commlib"}:
            raise
        sys.stderr.write(
            f"commlib: the command line needs the package {package!r}, which is not installed (as after pip install "
            f"--no-deps); install commlib with its dependencies: pip install .\n"
        )
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
