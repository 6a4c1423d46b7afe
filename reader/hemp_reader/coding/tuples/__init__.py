"""The coder of tuples: its model is the joint table that the entropy term counts."""
