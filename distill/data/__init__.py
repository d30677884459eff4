"""Pictures: where they come from, in which order, and which view of them is shown."""
