"""Soundness checks: whether the numbers of an evaluation can be believed."""
