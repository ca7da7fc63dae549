"""Doors to the frameworks, one package each, imported only when needed."""
