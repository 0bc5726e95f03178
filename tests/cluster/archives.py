"""Image archives: what is in one, and one without what its reader has already."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIGURATION = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def added_bytes(archive: Path) -> int:
    """What an image holds beyond its first layer, its base: the sizes of the files."""
    total = 0
    with tarfile.open(archive) as image:
        for name in _listed(image)["Layers"][1:]:
            with tarfile.open(fileobj=io.BytesIO(_read(image, name))) as files:
                total += sum(member.size for member in files)
    return total


def layers(archive: Path) -> list[str]:
    """The digests of an image's layers, its base first."""
    with tarfile.open(archive) as image:
        digests: list[str] = json.loads(_read(image, _listed(image)["Config"]))["rootfs"]["diff_ids"]
        return digests


def write_difference(archive: Path, name: str, known: Collection[str], made: Path) -> None:
    """Writes an image as an OCI archive without the layers that its reader knows.

    Args:
        archive: The image, as Docker saves one, with its layers not compressed.
        name: The full name that it shall have.
        known: Digests of what the reader has.
        made: What is written.
    """
    with tarfile.open(archive) as image, tarfile.open(made, "w") as output:
        listed = _listed(image)
        configuration = _read(image, listed["Config"])
        described = []
        for digest, file in zip(json.loads(configuration)["rootfs"]["diff_ids"], listed["Layers"], strict=True):
            described.append({"mediaType": LAYER, "digest": digest, "size": image.getmember(file).size})
            if digest not in known:
                _add(output, _place(digest), _read(image, file))
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _describe(CONFIGURATION, configuration),
                "layers": described,
            }
        ).encode()
        entry = {**_describe(MANIFEST, manifest), "annotations": {"io.containerd.image.name": name}}
        for blob in (configuration, manifest):
            _add(output, _place(_digest(blob)), blob)
        _add(output, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        _add(output, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())


def _listed(image: tarfile.TarFile) -> dict[str, Any]:
    """The one image of an archive."""
    [listed] = json.loads(_read(image, "manifest.json"))
    assert isinstance(listed, dict), "as Docker writes it"
    return listed


def _read(image: tarfile.TarFile, name: str) -> bytes:
    file = image.extractfile(name)
    assert file, "a regular file"
    return file.read()


def _add(output: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    output.addfile(member, io.BytesIO(content))


def _describe(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
