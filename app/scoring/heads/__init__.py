"""Scores of the classifier a model was pretrained with: what its classes say of the user's. One family a file."""
