"""Databases of earlier releases."""
