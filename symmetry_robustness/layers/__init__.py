"""Layers: tensors in, tensors out; the ones that carry a symmetry's name have that symmetry."""
