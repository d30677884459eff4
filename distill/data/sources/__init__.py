"""One file a source of pictures."""
