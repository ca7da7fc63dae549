"""Runs a scenario: ``python -m benchmarks NAME [OPTIONS]``, or ``--help`` in place of a name."""

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.report import Report, SkippedError

_FOLDER = Path(__file__).with_name("scenarios")


def scenarios() -> dict[str, str]:
    """Return what each scenario is about by its name, none of them imported."""
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        for path in sorted(_FOLDER.glob("[!_]*.py"))
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run the scenario that the command line names.

    Returns 0 if all is well; 1 if a row failed, gave other bits or missed a limit of the project's
    own; 2 if the scenario cannot run here.
    """
    given = sys.argv[1:] if given is None else given
    name, found = given[0] if given else "", scenarios()
    if name not in found:
        names = "\n".join(f"  {each:<12}{about}" for each, about in found.items())
        print(f"{__doc__}\n\n{names}", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    try:
        return run(name, given)
    except (ImportError, SkippedError) as reason:
        print(f"{name} cannot run here: {reason}", file=sys.stderr)
        return 2


def run(name: str, given: Sequence[str]) -> int:
    """Run a scenario with its options, the first of which is its name."""
    scenario = importlib.import_module(f"benchmarks.scenarios.{name}")
    card = torch.cuda.is_available() and "simulated" not in given
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=scenario.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(card=card, device="cuda" if card else "cpu")
    parser.add_argument("--json", type=Path, help="where the results go")
    scenario.options(parser.add_argument, card)
    args = parser.parse_args(given[1:])
    if getattr(scenario, "NEEDS_CARD", False) and not card:
        raise SkippedError("it needs an NVIDIA card that torch can use; the cycle needs none")
    report = Report(name, scenario.COLUMNS, args)
    with torch.no_grad():
        scenario.run(args, report)
    return 1 if any(map(report.failed, report.rows)) else 0


if __name__ == "__main__":
    sys.exit(main())
