"""The coders that learn while they code."""
