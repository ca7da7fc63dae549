"""What tests of a cluster share: sessions of actors and of one machine, and face models."""

from __future__ import annotations

from vramx.tasks import FaceModels, FaceModelSpec, SessionOptions

SESSION = SessionOptions(backend="simulated", reserve="4MiB", block=2**16)
LOCAL = SessionOptions(backend="simulated", budget="64MiB", block=2**16)
#: Networks by their roles.
FACE_NETWORKS = {
    role: f"pipelines.face_networks:{name}"
    for role, name in (
        ("detector", "PatchDetector"),
        ("recognizer", "MeanColour"),
        ("swapper", "Painter"),
    )
}
FACE_MODELS = FaceModels(**{role: FaceModelSpec(name) for role, name in FACE_NETWORKS.items()})
