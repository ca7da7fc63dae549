"""Swapping faces: a chain of the user's models with the work between them."""
