"""What the doctor says."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass


class Severity(enum.IntEnum):
    """How bad a finding is, the worst last.

    ``OK``
        As it should be.
    ``NOTE``
        Worth knowing, or could not be looked at.
    ``WARNING``
        vramx works, but slower or with less than this machine could give.
    ``ERROR``
        Something that was asked about does not work.
    ``UNUSABLE``
        vramx has no card to work with; only the simulated one runs.
    """

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3
    UNUSABLE = 4


#: The process's exit code by the worst severity. 1 and 2 are left to failures and wrong usage.
EXIT_CODES = {
    Severity.OK: 0,
    Severity.NOTE: 0,
    Severity.WARNING: 3,
    Severity.ERROR: 4,
    Severity.UNUSABLE: 5,
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    check : str
        Which check says it.
    severity : Severity
        How bad it is.
    what : str
        What was found, with figures.
    why : str
        Why it matters; may be empty where all is well.
    advice : str
        What to do; empty where there is nothing to do.
    """

    check: str
    severity: Severity
    what: str
    why: str = ""
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it as plain data.

        Returns
        -------
        dict of str to str
            Its attributes, the severity by name.
        """
        return {**asdict(self), "severity": self.severity.name.lower()}


def exit_code(findings: Iterable[Finding]) -> int:
    """Tell the exit code of a process that reports some findings.

    Parameters
    ----------
    findings : iterable of Finding
        What was found.

    Returns
    -------
    int
        By `EXIT_CODES` for the worst of them; 0 for none.
    """
    return EXIT_CODES[max((finding.severity for finding in findings), default=Severity.OK)]
