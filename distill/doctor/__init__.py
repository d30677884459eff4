"""`distill doctor`: what a job will need and what would end it, where its time goes, and why a loss was not finite."""
