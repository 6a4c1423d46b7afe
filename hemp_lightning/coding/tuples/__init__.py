"""The coder of tuples, after a table of how often each occurs."""
