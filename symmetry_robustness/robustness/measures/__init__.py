"""Measures beside attacks: CLEVER, gradient norm, removed pixels, smallest distances, equivariance."""
