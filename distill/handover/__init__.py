"""A trained student for others: exported in their formats, pushed to the Hugging Face hub, asked for the classes of pictures."""
