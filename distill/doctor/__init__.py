"""`distill doctor`: what a job will need and what would end it, and why a run's loss was not finite. It writes nothing."""
