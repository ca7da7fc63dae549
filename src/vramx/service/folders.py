"""Files of folders that the service's owner allows, by relative paths that do not lead out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vramx.service.refusals import ForbiddenError, NotFoundError


class Folders:
    """Folders whose files clients may name.

    Parameters
    ----------
    folders : mapping of str to Path
        By what they are called.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = {name: folder.resolve() for name, folder in folders.items()}

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return sorted(self._folders)

    def find(self, name: str, relative: str) -> Path:
        """Find a file.

        Parameters
        ----------
        name : str
            The folder.
        relative : str
            The file's path inside it.

        Returns
        -------
        Path
            Without links.

        Raises
        ------
        NotFoundError
            If there is no such folder or file.
        ForbiddenError
            If it lies outside.
        """
        root = self._folders.get(name)
        if root is None:
            raise NotFoundError(f"there is no folder {name}: there are {', '.join(self.names)}")
        asked = PurePosixPath(relative)
        if asked.is_absolute() or ".." in asked.parts or "\0" in relative:
            raise ForbiddenError(f"{relative!r} leads out of the folder {name}")
        try:
            found = (root / asked).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise NotFoundError(f"there is no file {relative!r} in the folder {name}") from None
        if not found.is_relative_to(root):
            raise ForbiddenError(f"{relative!r} leads out of the folder {name}")
        if not found.is_file():
            raise NotFoundError(f"{relative!r} in the folder {name} is no file")
        return found
