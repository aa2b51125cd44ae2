"""Statements of the scores of the data a model was pretrained on."""

from app.scoring.contract import Score

STATEMENTS: tuple[Score, ...] = ()
