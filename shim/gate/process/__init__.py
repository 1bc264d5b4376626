"""The gate and its supervisor as processes."""
