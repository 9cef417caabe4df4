"""Where the vectors are: beside the package in an installation, at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

from refquant.errors import InputError


def golden_directory() -> Path:
    """The folder of the published vectors.

    Raises
    ------
    InputError
        If this installation has none.

    Examples
    --------
    >>> (golden_directory() / "manifest.json").exists()
    True
    """
    here = Path(__file__).parent
    for folder in (here / "golden", here.parents[1] / "golden"):
        if (folder / "schema.json").is_file():
            return folder
    raise InputError(f"this installation holds no golden vectors: neither {here / 'golden'} nor {here.parents[1] / 'golden'} is there")
