"""Read `.hemp` files with NumPy alone."""
