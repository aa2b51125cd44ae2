"""Statements of the scores of what is known without labels."""

from app.scoring.contract import Score

STATEMENTS: tuple[Score, ...] = ()
