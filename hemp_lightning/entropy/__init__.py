"""What is the rate? The entropy of quantized weights, and its gradient."""
