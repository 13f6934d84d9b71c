"""Images of a prompt, as the page may show them: pictures only, by their first bytes, and from inside the run alone."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
IMAGES = ("images", "image")
"""Keys of a prompt's metadata under which its images stand."""
_LARGEST = 8_000_000
_MOST = 32


def prompt_images(row: Mapping[str, Any], metadata: Any, run: Path) -> list[dict[str, str]]:
    """Each image as a data URL under `url`, or the reason why it is not shown under `problem`.

    They are taken from a column `images` of bytes or texts, or from `images` or `image` in the prompt's metadata: a
    data URL, or a path inside the run directory.
    """
    given = row.get("images")
    if given is None and isinstance(metadata, Mapping):
        given = next((metadata[name] for name in IMAGES if name in metadata), None)
    listed = given if isinstance(given, list | tuple) else [] if given is None else [given]
    return [_image(one, run) for one in listed[:_MOST]]


def _image(given: Any, run: Path) -> dict[str, str]:
    if isinstance(given, Mapping):  # as the datasets library stores an image
        given = given.get("bytes") or given.get("path")
    try:
        data = given if isinstance(given, bytes) else _read(str(given), run)
    except (OSError, ValueError) as error:
        return {"problem": str(error)}
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
    if kind is None or (kind == "image/webp" and data[8:12] != b"WEBP"):
        return {"problem": "neither PNG, JPEG, GIF nor WebP"}
    if len(data) > _LARGEST:
        return {"problem": f"{len(data)} bytes, more than {_LARGEST}"}
    return {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}


def _read(given: str, run: Path) -> bytes:
    """The bytes of a data URL or of a file of the run. Raises ValueError for anything else."""
    if given.startswith("data:"):
        head, _, body = given.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data URL that is not base64")
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise ValueError("a data URL that is not base64") from error
    path = (run / given).resolve()
    if not path.is_relative_to(run.resolve()):
        raise ValueError("a file outside the run directory")
    if not path.is_file():
        raise ValueError("a file that is not there")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"more than {_LARGEST} bytes")
    return path.read_bytes()
