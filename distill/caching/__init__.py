"""`distill cache`: plans, fills, looks at, verifies and removes teacher caches."""
