"""Files of weights as trainers and downloads leave them: loaded without running them, or named."""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vramx
from vramx.checkpoints import files, pickles, read_checkpoint
from vramx.doctor import Severity, examine

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

OpenSession = Callable[..., vramx.Session]
Weights = dict[str, Any]


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def is_loaded(open_session: OpenSession, path: Path, module: nn.Module | None = None) -> bool:
    """Whether the weights of `network` come from a file, in an entry of the same names."""
    if module is None:
        with torch.device("meta"):
            module = network()
    with open_session() as session:
        session.load(module, path)
        held = list(module.parameters())
        return all(map(torch.equal, held, network().parameters()))


def refusals(path: Path, open_session: OpenSession) -> list[str]:
    """What each reader says of a file."""
    said = []
    with pytest.raises(vramx.ConfigError) as caught:
        read_checkpoint(path)
    said.append(str(caught.value))
    with open_session() as session, pytest.raises(vramx.ConfigError) as caught:
        session.load(network(), path)
    said.append(str(caught.value))
    (found,) = (each for each in examine(path) if each.check == "model")
    assert found.severity is Severity.ERROR
    said.append(found.what)
    assert all(str(path) in each for each in said)
    assert not any("weights_only" in each for each in said)
    return said


class Settings(dict[str, Any]):
    """A class of a trainer's own, which fills itself in a way that no safe reader has."""


class Runs:
    """Runs a function when it is unpickled as Python does."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.call = (function, given)

    def __reduce__(self) -> Any:
        return self.call


BESIDE = {
    "settings": argparse.Namespace(rate=1e-4, data=pathlib.PurePosixPath("photographs")),
    "optimizer": {"state": {0: {"step": torch.ones(())}}, "kind": torch.optim.Adam},
}


@pytest.mark.parametrize("is_zipped", [True, False])
@pytest.mark.parametrize(
    "entry", ["params_ema", "params", "state_dict", "model_state_dict", "module", "my_network"]
)
def test_weights_with_a_trainers_objects_beside_are_loaded(
    open_session: OpenSession, tmp_path: Path, entry: str, *, is_zipped: bool
) -> None:
    content = {"epoch": 3, entry: network().state_dict(), **BESIDE}
    path = tmp_path / "last.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=is_zipped)
    assert is_loaded(open_session, path)
    assert {each.name for each in read_checkpoint(path)} >= {f"{entry}.0.weight"}
    assert "Namespace" not in str(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("is_zipped", [True, False])
def test_what_a_checkpoint_would_run_is_not_run(
    open_session: OpenSession, tmp_path: Path, *, is_zipped: bool
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "a.pth"
    runs = Runs(subprocess.call, [sys.executable, "-c", f"open({str(mark)!r}, 'w')"])
    writes = Runs(eval, f"open({str(mark)!r}, 'w')")
    content = {"params": network().state_dict(), "runs": runs, "writes": writes}
    torch.save(content, path, _use_new_zipfile_serialization=is_zipped)
    assert is_loaded(open_session, path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (network(), "torch.nn.modules.linear.Linear"),
        ({"model": network(), "epoch": 3}, "torch.nn.modules.linear.Linear"),
        ({"a": Settings(rate=1), "params": network().state_dict()}, f"{__name__}.Settings"),
        ({"a": Runs(pathlib.os.system, "true")}, "posix.system"),  # type: ignore[attr-defined]
    ],
)
def test_a_class_that_keeps_weights_from_being_read_safely_is_named_with_what_to_do(
    open_session: OpenSession, tmp_path: Path, content: Any, named: str
) -> None:
    torch.save(content, path := tmp_path / "a.pth")
    for said in refusals(path, open_session):
        assert named in said
        assert "torch.save(model.state_dict(), path)" in said


def test_of_several_state_dicts_without_a_usual_name_none_is_chosen(
    open_session: OpenSession, tmp_path: Path
) -> None:
    content = {"one": network().state_dict(), "other": network().state_dict(), **BESIDE}
    torch.save(content, path := tmp_path / "gan.pth")
    with open_session() as session, pytest.raises(vramx.ConfigError) as caught:
        session.load(network(), path)
    for said in ("'one'", "'other'", "argparse.Namespace", "save the state dict alone"):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    "named",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"net.model.{name}",
        lambda name: name.replace("0.", "0._orig_mod."),
        lambda name: f"net.{name}".replace("0.", "0._fsdp_wrapped_module."),
    ],
)
def test_names_are_told_without_what_wrappers_and_trainers_put_before(
    open_session: OpenSession, tmp_path: Path, named: Callable[[str], str]
) -> None:
    weights = {named(name): tensor for name, tensor in network().state_dict().items()}
    save_file(weights, path := tmp_path / "a.safetensors")
    assert is_loaded(open_session, path)


def test_a_wrapped_module_takes_what_was_saved_without_its_wrapper(
    open_session: OpenSession, tmp_path: Path
) -> None:
    save_file(network().state_dict(), path := tmp_path / "a.safetensors")
    with torch.device("meta"):
        plain = network()
    assert is_loaded(open_session, path, torch.compile(plain, backend="eager"))


def test_where_a_file_has_a_module_twice_no_name_is_guessed(
    open_session: OpenSession, tmp_path: Path
) -> None:
    weights = network().state_dict()
    twice = {f"{each}.{name}": t.clone() for each in ("net", "ema") for name, t in weights.items()}
    save_file(twice, path := tmp_path / "a.safetensors")
    for strict in (True, False):
        with open_session() as session, torch.device("meta"):
            module = network()
            with pytest.raises(vramx.ConfigError, match="4 tensors are not in the file"):
                session.load(module, path, strict=strict)
    more = {f"net.{name}": tensor for name, tensor in weights.items()}
    save_file(more | {"loss.weight": torch.ones(3)}, path)
    with open_session() as session:
        with pytest.raises(vramx.ConfigError, match=r"not in the module: loss\.weight"):
            session.load(network(), path)
        session.load(network(), path, strict=False)


@pytest.mark.parametrize("name", ["a.pth", "a.PTH", "a.safetensors", "a.SafeTensors", "a", "a.zip"])
def test_the_kind_of_a_file_is_told_by_its_content(
    open_session: OpenSession, tmp_path: Path, name: str
) -> None:
    path, weights = tmp_path / name, network().state_dict()
    save_file(weights, path)
    assert is_loaded(open_session, path)
    for is_zipped in (True, False):
        torch.save(weights, path, _use_new_zipfile_serialization=is_zipped)
        assert is_loaded(open_session, path)
        assert len(read_checkpoint(path)) == 4


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><title>not found</title>", "web page"),
        (b"\xef\xbb\xbf\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b'{"model_type": "upscaler"}', "not an index"),
        (b"[" * 100_000, "not an index"),
        (b"", "empty"),
        (b"anything else", "begins with b'anything else'"),
    ],
)
def test_what_is_no_weights_is_called_what_it_is(
    open_session: OpenSession, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (path := tmp_path / name).write_bytes(content)
    assert all(said in each for each in refusals(path, open_session))


@pytest.mark.parametrize("name", ["../a.safetensors", "{folder}/a.safetensors", "x/../../a"])
def test_an_index_leads_to_no_file_outside_its_folder(
    open_session: OpenSession, tmp_path: Path, name: str
) -> None:
    save_file(network().state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"0.weight": name.format(folder=tmp_path)}}))
    assert all("not in its folder" in each for each in refusals(path, open_session))


def containing_itself() -> Any:
    content: dict[str, Any] = {}
    content["params"] = content
    return content


def deep() -> Any:
    content: Any = network().state_dict()
    for _ in range(300):
        content = [content]
    return content


@pytest.mark.parametrize(
    ("make", "said"),
    [(containing_itself, ("no tensors", "no named tensors")), (deep, ("nested", "a list"))],
)
def test_what_contains_itself_or_is_deep_is_an_error_by_name(
    open_session: OpenSession, tmp_path: Path, make: Callable[[], Any], said: tuple[str, ...]
) -> None:
    torch.save(make(), path := tmp_path / "a.pth")
    assert all(any(each in told for each in said) for told in refusals(path, open_session))


def test_a_loop_beside_weights_does_not_keep_them_from_being_read(
    open_session: OpenSession, tmp_path: Path
) -> None:
    loop: list[Any] = []
    loop.append(loop)
    torch.save({"loop": loop, "params": network().state_dict()}, path := tmp_path / "a.pth")
    assert is_loaded(open_session, path)
    assert len(read_checkpoint(path)) == 4


@pytest.mark.parametrize("entry", ["data.pkl", "version", "data/0"])
def test_an_archive_that_would_unpack_to_more_than_it_is_is_refused_unread(
    open_session: OpenSession, tmp_path: Path, entry: str
) -> None:
    torch.save(network().state_dict(), whole := tmp_path / "whole.pth")
    path = tmp_path / "packed.pth"
    with zipfile.ZipFile(whole) as read, zipfile.ZipFile(path, "w") as written:
        for name in read.namelist():
            is_packed = name.endswith(entry)
            content = bytes(2**26) if is_packed else read.read(name)
            kind = zipfile.ZIP_DEFLATED if is_packed else zipfile.ZIP_STORED
            written.writestr(name, content, kind)
    tracemalloc.start()
    try:
        assert all(
            "would unpack to 67108864 bytes" in each for each in refusals(path, open_session)
        )
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_class_whose_name_can_be_none_is_an_error_by_name(
    open_session: OpenSession, tmp_path: Path
) -> None:
    path = tmp_path / "a.pth"
    torch.save(argparse.Namespace(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"Namespace", b"Name\0pace"))
    assert all("Name\0pace" in each for each in refusals(path, open_session))


@pytest.mark.parametrize("kind", ["safetensors", "archive"])
def test_more_tensors_than_any_model_has_are_refused_before_they_are_looked_at(
    open_session: OpenSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    assert files.MOST_TENSORS > 50_000
    for module in (files, pickles):
        monkeypatch.setattr(module, "MOST_TENSORS", 20)
    state = {f"t{number}": torch.zeros(2) for number in range(30)}
    path = tmp_path / "a"
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    said = refusals(path, open_session)
    assert all("more than the 20 that are read from one file" in each for each in said)


def test_an_archive_with_more_beside_its_tensors_than_any_model_has_is_refused_unread(
    open_session: OpenSession, tmp_path: Path
) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"N0" * 2**24 + b".")
    said = refusals(path, open_session)
    assert all("33554435 bytes beside its tensors" in each for each in said)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_program_in_the_place_of_weights_is_called_one(
    open_session: OpenSession, tmp_path: Path
) -> None:
    torch.jit.trace(network(), torch.ones(1, 6)).save(str(path := tmp_path / "a.pth"))
    assert all("TorchScript program" in each for each in refusals(path, open_session))
