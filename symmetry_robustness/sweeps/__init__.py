"""Many jobs: one process each, from a frozen configuration in the job's own run directory."""
