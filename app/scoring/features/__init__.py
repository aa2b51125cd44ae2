"""Scores of labelled features: which of the user's classes the model already tells apart. One family a file."""
