"""How do we train? The callback and its parts."""
