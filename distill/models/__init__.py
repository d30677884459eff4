"""The block library, what finds and loads models, and what catches their features."""
