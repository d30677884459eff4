"""Measurements. Each compares in one process, in interleaved blocks, because a shared machine's absolute times mean nothing."""
