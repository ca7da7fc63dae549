"""The demo: a photograph enlarged in less memory than the weights take."""
