"""A matrix of students and seeds: planned, trained where something is missing, and compared."""
