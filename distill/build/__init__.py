"""The only place that knows both recipes and classes: it turns the one into the other."""
