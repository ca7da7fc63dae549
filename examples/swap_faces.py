"""Swap the face in a clip with four models that do not fit their memory budget together.

MTCNN, trained, finds the face. The other models are made by hand: they tint it and sharpen it, so
that what became of it can be seen. With models of your own, as `help(vramx.face_swap)` describes
them, the same lines swap faces.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import vramx
from face_models import (
    ColourRecognizer,
    Sharpener,
    TintSwapper,
    save_clip,
    save_portrait,
)
from mtcnn import MTCNN

MIB = 2**20


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Parameters
    ----------
    argv : sequence of str or None
        The arguments; None takes the process's own.

    Returns
    -------
    argparse.Namespace
        One attribute per option.
    """
    parser = argparse.ArgumentParser(prog="swap_faces", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where to write me.png, clip.mp4, swapped.mp4"
    )
    parser.add_argument("--frames", type=int, default=75, help="length of the clip (default: 75)")
    parser.add_argument(
        "--budget", help="memory for weights and crops, such as 4MiB (default: half the weights)"
    )
    parser.add_argument(
        "--simulated", action="store_true", help="use the simulated card although there is a GPU"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example.

    Parameters
    ----------
    argv : sequence of str or None
        The arguments; None takes the process's own.

    Returns
    -------
    int
        0 if the clip was written, 1 if not.
    """
    arguments = parse_arguments(argv)
    on_gpu = torch.cuda.is_available() and not arguments.simulated
    folder: Path = arguments.folder
    try:
        models = [MTCNN(), ColourRecognizer(), TintSwapper(), Sharpener()]
        weights = sum(p.nbytes for model in models for p in model.parameters())
        # On a GPU the crops share the budget with the weights.
        budget = arguments.budget or (256 * MIB if on_gpu else weights // 2)
        folder.mkdir(parents=True, exist_ok=True)
        save_portrait(folder / "me.png")
        save_clip(folder / "clip.mp4", arguments.frames)
        with (
            vramx.face_swap(
                *models,
                budget=budget,
                backend="auto" if on_gpu else "simulated",
                block="256KiB" if not on_gpu else "32MiB",
            ) as fs,
            vramx.progress_bar() as bar,
        ):
            result = fs.swap_video(
                folder / "me.png",
                folder / "clip.mp4",
                folder / "swapped.mp4",
                overwrite=True,
                on_progress=bar,
            )
            stats = fs.session.stats()
    except (vramx.Error, OSError) as error:
        print(f"swap_faces: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"weights {weights / MIB:.1f} MiB, budget {stats.budget / MIB:.1f} MiB")
    print(f"peak resident {stats.peak_resident / MIB:.1f}, moved in {stats.moved_in / MIB:.1f} MiB")
    print(
        f"{folder / 'swapped.mp4'}: {result.frames} frames, {result.swapped} faces swapped, "
        f"{result.without_face} frames without a face"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
