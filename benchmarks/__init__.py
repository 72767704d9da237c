"""Side by side, in one process each: this project against plain loops, torchattacks and ART."""
