"""What an evaluation found: reports, soundness checks, names and files; numpy only."""
