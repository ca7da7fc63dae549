"""Enlarging pictures of any size in a budget: whole, band by band, or in tiles."""
