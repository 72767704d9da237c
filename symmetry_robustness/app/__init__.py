"""The commands: thin Hydra or argparse mains over the rest of the package."""
