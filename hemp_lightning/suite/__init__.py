"""What do we compare, on what? Experiments of models, datasets and methods."""
