"""Handing a trained student over: the files that other programs can run."""
