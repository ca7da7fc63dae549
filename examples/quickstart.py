"""Run a model of 256 MiB inside a memory budget of 128 MiB."""

import torch
from torch import nn

import vramx

has_gpu = torch.cuda.is_available()
backend = "auto" if has_gpu else "simulated"
device = "cuda" if has_gpu else "cpu"
print("device:", torch.cuda.get_device_name() if has_gpu else "simulated card (no GPU found)")

torch.manual_seed(0)
model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(16))).eval()
x = torch.randn(8, 2048, device=device)

with vramx.oversubscribe(budget="128MiB", backend=backend, block="8MiB") as session:
    session.manage(model)
    with torch.inference_mode():
        y = model(x)
    print("output:", tuple(y.shape), "mean", f"{y.mean().item():.6f}")
    print(session.report())
