"""Measures beside attacks: bounds of distances, gradient norm, removed pixels, smallest distances, equivariance."""
