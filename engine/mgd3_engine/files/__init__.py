"""Files of weights: read without running code from them, written whole, and known by their digest."""
