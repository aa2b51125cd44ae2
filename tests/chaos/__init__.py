"""Faults at random moments on a stack that is used all the time, and what must hold all the same."""
