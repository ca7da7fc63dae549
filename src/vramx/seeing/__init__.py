"""Seeing what a session does: usage by module, the plan, reports, traces and pictures."""
