"""Bounds of a network's outputs over a ball of images, by linear relaxation; pure functions of traced networks."""
