"""How fast this machine is, and how near vramx comes to what it can do. Loads no framework."""

from vramx.bench.short import Bench, Row, bench

__all__ = ["Bench", "Row", "bench"]
