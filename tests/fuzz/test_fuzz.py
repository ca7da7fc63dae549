"""Whatever is in a file, reading it ends soon, in bounded memory, well or by a typed error.

``VRAMX_TEST_INPUTS`` says how many damaged files each reader is given, 40 unless set, and
``VRAMX_TEST_SEED`` which ones; `make thorough` gives 400, `make fuzz` 10,000.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

for package in ("PIL", "av", "skimage", "torch"):
    pytest.importorskip(package)

from forkserver import processes  # noqa: E402

from .fuzzing import LIMIT, fuzz  # noqa: E402
from .readers import KINDS  # noqa: E402

INPUTS = int(os.environ.get("VRAMX_TEST_INPUTS", "40"))
#: ``earliest`` and ``latest`` are moments of the simulated card and no seeds.
_SEED = os.environ.get("VRAMX_TEST_SEED", "1")
SEED = int(_SEED) if _SEED.isdecimal() else 1
MOST = 2**30


@pytest.mark.timeout(120 + INPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_is_a_typed_error(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "number"
    found, told = processes.Pipe(duplex=False)
    process = processes.Process(target=fuzz, args=(kind, SEED, INPUTS, str(log), told))
    process.start()
    told.close()
    try:
        answer = found.recv()
    except EOFError:  # it crashed, or one file took longer than the limit
        process.join()
        said = Path(f"{log}.stderr").read_text()[-2000:]
        pytest.fail(
            f"file {log.read_text()} of seed {SEED} ended the process ({process.exitcode}) or took "
            f"more than {LIMIT} s:\n{said}"
        )
    process.join()
    if answer is None:
        pytest.skip("nothing here writes such files")
    raised, grown = answer
    assert not raised, f"{len(raised)} of {INPUTS}, such as file {raised[0][0]}:\n{raised[0][1]}"
    assert grown <= MOST
