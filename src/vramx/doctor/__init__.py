"""Looking for what keeps vramx from working, or from working fast, on a machine."""

from vramx.doctor.examination import examine
from vramx.doctor.findings import EXIT_CODES, Finding, Severity, exit_code
from vramx.doctor.machine import Machine
from vramx.doctor.this_machine import ThisMachine

__all__ = [
    "EXIT_CODES",
    "Finding",
    "Machine",
    "Severity",
    "ThisMachine",
    "examine",
    "exit_code",
]
