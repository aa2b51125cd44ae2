"""Scores of a model's gradients."""
