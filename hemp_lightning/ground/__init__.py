"""What everything stands on: threads."""
