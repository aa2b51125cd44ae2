"""Statements of the scores of the classifier a model was pretrained with."""

from app.scoring.contract import Score

STATEMENTS: tuple[Score, ...] = ()
