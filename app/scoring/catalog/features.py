"""Statements of the scores of labelled features, in the order in which they are shown."""

from app.scoring.catalog import adaptation, class_statistics, correlation, pairs, prediction, separation

STATEMENTS = (
    *correlation.STATEMENTS,
    *prediction.STATEMENTS,
    *correlation.COSINE,
    *class_statistics.STATEMENTS,
    *pairs.STATEMENTS,
    *separation.STATEMENTS,
    *adaptation.STATEMENTS,
)
