"""CuPy arrays of twice the budget, made, summed, sorted and written back."""

from __future__ import annotations

import argparse
import contextlib
import sys

import vramx

try:
    import cupy
except ImportError as error:
    cupy, missing = None, error


def work(session: vramx.Session, count: int, length: int) -> tuple[list[float], list[bool]]:
    """Make arrays that do not fit the budget together, change each, and read all again.

    Parameters
    ----------
    session : Session
        Whose memory CuPy's arrays are in.
    count, length : int
        How many arrays, and how many numbers each has.

    Returns
    -------
    list of float
        The sum of each array.
    list of bool
        Whether each is in order when it is read again.
    """
    totals = []
    arrays = []
    for number in range(count):
        array = cupy.empty(length, dtype=cupy.float32)
        with session.pin(array):  # on the card for as long as it is worked on
            array[...] = cupy.arange(length, 0, -1, dtype=cupy.float32) % 1000 + number
            totals.append(float(array.sum(dtype=cupy.float64)))
            array.sort()
        arrays.append(array)
    in_order = []
    for array in arrays:
        session.prefetch(array)
        in_order.append(bool((array[1:] >= array[:-1]).all()))
    return totals, in_order


def main() -> int:
    """Run it, and report.

    Returns
    -------
    int
        The exit code: 0 also where there is no CuPy or no GPU, which is said.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="256MiB")
    parser.add_argument("--arrays", type=int, default=16)
    arguments = parser.parse_args()
    if cupy is None:
        print(f"skipped: this example needs cupy ({missing}): pip install cupy-cuda13x")
        return 0
    from vramx.integrations.cupy import route

    try:
        session = vramx.oversubscribe(arguments.budget, block="2MiB")
    except vramx.NoDeviceError as error:
        print(f"skipped: {error}")
        return 0
    with contextlib.closing(session), route(session):
        length = 2 * session.stats().budget // arguments.arrays // 4
        totals, in_order = work(session, arguments.arrays, length)
        stats = session.stats()
    print(f"{len(totals)} arrays of {4 * length} B, the first one's sum {totals[0]:.0f}")
    print(f"at most {stats.peak_resident} B of {stats.budget} B on the card")
    print(f"written back: {stats.moved_out} B; in order when read again: {all(in_order)}")
    return 0 if all(in_order) else 1


if __name__ == "__main__":
    sys.exit(main())
