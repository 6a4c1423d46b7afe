"""The context coders: every index is predicted from the ones before it."""
