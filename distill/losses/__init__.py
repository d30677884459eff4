"""One file a loss; the file's name is the loss's name in a recipe."""
