"""What all processes of this machine do on its cards."""

from vramx.monitor.snapshot import CardView, ProcessView, Rates, SessionView, Snapshot, look

__all__ = ["CardView", "ProcessView", "Rates", "SessionView", "Snapshot", "look"]
