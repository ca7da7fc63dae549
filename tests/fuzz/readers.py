"""The readers of files that others may have made, and whole files of each kind."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
from collections.abc import Callable
from pathlib import Path

from pipelines.clips import write_clip
from pipelines.test_ncnn import written

#: What Pillow writes and vramx reads.
PICTURES = (
    "AVIF", "BLP", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "IM", "JPEG", "JPEG2000", "MPO",
    "MSP", "PCX", "PNG", "PPM", "QOI", "SGI", "SPIDER", "TGA", "TIFF", "WEBP", "XBM",
)  # fmt: skip
VIDEOS = {
    "mp4": ("libx264", "aac"),
    "mov": ("mpeg4", "aac"),
    "mkv": ("libx264", "libopus"),
    "webm": ("libvpx-vp9", "libopus"),
    "avi": ("mpeg4", "mp3"),
    "ts": ("libx264", "aac"),
    "flv": ("flv", "aac"),
    "ogv": ("libtheora", "libvorbis"),
}
WEIGHTS = ("safetensors", "archive", "pickle", "index")


def picture_files(name: str, folder: Path) -> list[bytes]:
    """Write pictures of a format in each mode that it takes."""
    from PIL import Image
    from skimage import data

    picture = Image.fromarray(data.astronaut()[:40, :48])
    exif = picture.getexif()
    exif[0x0112] = 6
    made = []
    for mode in ("RGB", "RGBA", "L", "P", "1", "I;16", "F", "CMYK"):
        options = {"exif": exif} if name in ("JPEG", "PNG", "TIFF", "WEBP") else {}
        if name == "MPO":
            options = {"save_all": True, "append_images": [picture]}
        try:
            picture.convert(mode).save(file := io.BytesIO(), name, **options)
        except (OSError, ValueError, KeyError):
            continue  # no mode of this format
        made.append(file.getvalue())
    del folder
    return made


def read_picture(path: Path) -> None:
    """Read a picture in all ways."""
    import vramx
    from vramx.pipelines.pictures import is_picture_file, load_picture, upright_size

    is_picture_file(path)
    for read in (upright_size, load_picture):
        with contextlib.suppress(vramx.Error):
            read(path)


def video_files(name: str, folder: Path) -> list[bytes]:
    """Write clips into a container."""
    codec, sound = VIDEOS[name]
    made = []
    for audio in (True, False):
        path = folder / f"seed{audio}.{name}"
        try:
            write_clip(path, 6, codec=codec, sound_codec=sound, audio=audio, times=_steady(6))
        except (OSError, ValueError):
            continue  # an encoder that FFmpeg lacks here
        made.append(path.read_bytes())
    return made


def _steady(count: int) -> list[int]:
    return [512 * number for number in range(count)]


def read_video(path: Path) -> None:
    """Read a video's frames."""
    from vramx.pipelines.video.source import VideoSource

    for _ in zip(range(40), VideoSource(path).frames()):
        pass


def weight_files(name: str, folder: Path) -> list[bytes]:
    """Write checkpoints."""
    import torch
    from safetensors.torch import save

    state = {f"{layer}.{kind}": torch.ones(4, 3) for layer in range(4) for kind in "ab"}
    if name == "safetensors":
        return [save(state, {"format": "pt"}), save({k: v.half() for k, v in state.items()})]
    if name == "index":
        return [json.dumps({"weight_map": dict.fromkeys(state, "a.safetensors")}).encode()]
    made = []
    for content in (state, {"params": state, "epoch": 4, "losses": [1.0, 2.0]}):
        torch.save(
            content, path := folder / "seed", _use_new_zipfile_serialization=name == "archive"
        )
        made.append(path.read_bytes())
    return made


def read_weights(path: Path) -> None:
    """Read a checkpoint's header and its weights."""
    import vramx
    from vramx.checkpoints import read_checkpoint
    from vramx.integrations.torch.loading import map_weights

    for read in (read_checkpoint, map_weights):
        with contextlib.suppress(vramx.Error):
            read(path)


def ncnn_files(_: str, __: Path) -> list[bytes]:
    """Write layers and weights behind each other."""
    layers, weights = written([(2, 3, 3), (3, 2, 1)])[:2]
    return [len(layers).to_bytes(4, "little") + layers + weights]


def read_ncnn(path: Path) -> None:
    """Read layers and weights."""
    from vramx.pipelines.pretrained.ncnn import read

    content = path.read_bytes()
    border = 4 + int.from_bytes(content[:4], "little") % 1000
    read(content[4:border], content[border:])


def onnx_files(_: str, folder: Path) -> list[bytes]:
    """Write a swapper and a network that enlarges pictures."""
    try:
        from onnx_networks import write_swapper, write_upscaler
    except ImportError:
        return []
    path = folder / "seed.onnx"
    made = []
    for write in (write_swapper, write_upscaler):
        write(path)
        made.append(path.read_bytes())
    return made


def read_onnx_model(path: Path) -> None:
    """Recognise a model, and tell what it takes."""
    import vramx
    from vramx.pipelines.onnx.roles import model_in
    from vramx.pipelines.onnx.upscaler import OnnxUpscaler

    with contextlib.suppress(vramx.Error):
        model_in(path, "swapper")
    OnnxUpscaler(path).pixel_bytes()


def claim_files(_: str, __: Path) -> list[bytes]:
    """Write what members of a queue claim."""
    from vramx.queue.ledger import Claim, Member

    members = (
        Member(7, (Claim(5, "a"), Claim(6, "b")), Claim(9, "c"), 3, 5),
        Member(8, (Claim(2**40, "ü"),)),
    )
    return [json.dumps(each.as_dict()).encode() for each in members]


def read_claims(path: Path) -> None:
    """Read the claims of a living member, and claim beside it."""
    from vramx.queue.ledger import Claim, Ledger

    place = path.rename(path.with_suffix(".claims"))
    with place.open("rb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        ledger = Ledger(path.parent)
        try:
            assert all(each.held >= 0 for each in ledger.others())
            ledger.claim(0, Claim(1, "mine"), 2**20)
        finally:
            ledger.close()


def manifest_files(_: str, folder: Path) -> list[bytes]:
    """Write the manifest of a job that was stopped."""
    from vramx.pipelines.video.manifest import Manifest, Segment

    segments = tuple(
        Segment(f"{n:06}.mp4", 4, 9 * n, 9 * n + 5, 64, 48, f"{n}" * 64, {"faces": n})
        for n in range(3)
    )
    del folder
    return [Manifest({"model": "m", "source": "s"}, segments, False).as_json()]


def read_manifest(path: Path) -> None:
    """Go on with a job."""
    from vramx.pipelines.video.work_folder import WorkFolder

    path.rename(path.with_name("manifest.json"))
    WorkFolder(path.parent, {"model": "m"}, lambda: "s")


Kind = tuple[Callable[[str, Path], list[bytes]], Callable[[Path], None]]
#: By name: what makes whole files, and what reads damaged ones.
KINDS: dict[str, Kind] = {
    **{f"picture {name}": (picture_files, read_picture) for name in PICTURES},
    **{f"video {name}": (video_files, read_video) for name in VIDEOS},
    **{f"weights {name}": (weight_files, read_weights) for name in WEIGHTS},
    "weights ncnn": (ncnn_files, read_ncnn),
    "model in ONNX": (onnx_files, read_onnx_model),
    "claims of a queue": (claim_files, read_claims),
    "manifest of a video": (manifest_files, read_manifest),
}
