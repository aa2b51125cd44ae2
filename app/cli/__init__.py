"""The command line, ``foretune``: runs the service, and works with it through the public REST interface.

Exit codes: 0 done, 1 failed (the error is on standard error, with its code and a hint), 2 wrong usage, 130 Ctrl-C.
"""

import sys


def main() -> None:
    """Run one command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a file name must not break a terminal that cannot show it
    from app.cli.program import program

    try:
        program()
    except Exception as error:
        from app.cli.terminal import tell_failure  # these imports cost time that `--help` need not take

        if not tell_failure(error, as_json="--json" in sys.argv[1:]):
            raise
        sys.exit(1)
