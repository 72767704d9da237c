"""The loop of attack steps that the evaluator owns, and the networks it runs."""
