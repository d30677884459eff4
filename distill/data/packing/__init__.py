"""Packs a folder of pictures into one file: `distill data prepare`. Nothing that trains imports it but the source that reads the file."""
