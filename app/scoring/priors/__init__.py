"""Priors: what can be said of a model without the user's labels. One family a file."""
