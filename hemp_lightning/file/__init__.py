"""What is a file? Writing, reading and checking whole networks."""
