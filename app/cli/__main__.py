"""``python -m app.cli`` is ``foretune``."""

from app.cli import main

main()
