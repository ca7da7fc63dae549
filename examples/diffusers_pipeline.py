"""A diffusers pipeline whose components share a budget of half their weights.

Without `--model` it is a small diffusion model with random weights, which shows how it is done and
makes noise of noise; with a folder or a name that diffusers knows, it is that pipeline.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

import vramx

try:
    import diffusers
except ImportError as error:
    diffusers, missing = None, error


def small_pipeline() -> Any:
    """Make a pipeline with random weights, without a download.

    Returns
    -------
    diffusers.DDPMPipeline
        On the CPU.
    """
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    return diffusers.DDPMPipeline(network, diffusers.DDPMScheduler())


def weight_bytes(pipe: Any) -> int:
    """Sum the weights of a pipeline's components."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(p.nbytes for module in modules for p in module.parameters())


def main() -> int:
    """Run the pipeline, and report.

    Returns
    -------
    int
        The exit code: 0 also where diffusers is not installed, which is said.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="what DiffusionPipeline.from_pretrained takes")
    parser.add_argument("--prompt", help="for pipelines that take one")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--budget", help="such as 6GiB (default: half the weights)")
    parser.add_argument("--output", default="diffused.png")
    arguments = parser.parse_args()
    if diffusers is None:
        print(f"skipped: this example needs diffusers ({missing}): pip install diffusers")
        return 0

    has_gpu = torch.cuda.is_available()
    print("device:", torch.cuda.get_device_name() if has_gpu else "simulated card (no GPU found)")
    if arguments.model is None:
        pipe = small_pipeline()
    else:
        pipe = diffusers.DiffusionPipeline.from_pretrained(arguments.model)
    weights = weight_bytes(pipe)
    budget = arguments.budget or weights // 2
    inputs = {} if arguments.prompt is None else {"prompt": arguments.prompt}
    backend = "auto" if has_gpu else "simulated"
    with vramx.oversubscribe(budget, backend=backend, block="2MiB") as session:
        session.manage(pipe)  # not pipe.to("cuda"): what a pipeline needs comes when it needs it
        pictures = pipe(num_inference_steps=arguments.steps, **inputs).images
        pictures[0].save(arguments.output)
        stats = session.stats()
    print(f"weights {weights} B, at most {stats.peak_resident} B of {stats.budget} B on the card")
    print(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
