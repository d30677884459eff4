"""`distill eval`: one network, or two on the same pictures, scored in detail and timed."""
