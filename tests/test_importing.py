"""Something done once a package is imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from vramx.importing import when_imported


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that nobody has imported yet, and what looks for packages is as before after it."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.syspath_prepend(tmp_path)
    name = "imported_for_a_test"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("value = 7\nfrom . import part\n")
    (tmp_path / name / "part.py").write_text("")
    for each in (name, f"{name}.part"):
        monkeypatch.setitem(sys.modules, each, None)
        monkeypatch.delitem(sys.modules, each)
    return name


def test_it_is_done_once_after_the_first_import_and_at_once_where_that_was_before(
    package: str,
) -> None:
    done: list[int] = []
    when_imported(package, lambda: done.append(sys.modules[package].value))
    assert done == []
    found = importlib.import_module(package)
    importlib.import_module(f"{package}.part")
    assert done == [7]
    assert type(found.__loader__) is type(found.__spec__.loader) is type(pytest.__loader__)
    when_imported(package, lambda: done.append(8))
    assert done == [7, 8]
    importlib.reload(found)
    assert done == [7, 8]


def test_what_it_raises_leaves_the_import_each_time(package: str) -> None:
    def fail() -> None:
        raise ValueError("too old")

    when_imported(package, fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="too old"):
            importlib.import_module(package)
        assert package not in sys.modules


def test_who_looks_for_the_package_without_importing_it_finds_it_as_it_is(package: str) -> None:
    done: list[int] = []
    when_imported(package, lambda: done.append(1))
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.loader is not None
    assert spec.loader.get_filename(package) == spec.origin  # type: ignore[attr-defined]
    assert importlib.util.find_spec("no_such_package_at_all") is None
    assert done == []
