"""What are the levels? Codebooks, the quantizers that fit them, and what is quantized."""
