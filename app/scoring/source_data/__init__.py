"""Scores of the distance between the data a model was pretrained on and the user's. One family a file."""
