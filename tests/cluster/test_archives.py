"""An image without what containerd has already."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.cluster.archives import added_bytes, layers, write_difference

NAME = "docker.io/library/example:1"


def tar(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


BASE = tar({"bin/python3": b"p" * 1000})
CODE = tar({"mirror/a.py": b"a" * 300, "mirror/b.py": b"b" * 45})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    configuration = json.dumps({"rootfs": {"diff_ids": [digest(BASE), digest(CODE)]}}).encode()
    listed = [{"Config": "c.json", "RepoTags": ["example:1"], "Layers": ["base.tar", "code.tar"]}]
    files = {"base.tar": BASE, "code.tar": CODE, "c.json": configuration, "manifest.json": json.dumps(listed).encode()}
    path = tmp_path / "image.tar"
    path.write_bytes(tar(files))
    return path


def test_layers_and_what_they_add(archive: Path) -> None:
    assert layers(archive) == [digest(BASE), digest(CODE)]
    assert added_bytes(archive) == 345


def test_a_difference_has_everything_but_the_layers_that_are_known(archive: Path, tmp_path: Path) -> None:
    made = tmp_path / "difference.tar"
    write_difference(archive, NAME, {digest(BASE)}, made)
    with tarfile.open(made) as image:
        files = {member.name: (image.extractfile(member) or io.BytesIO()).read() for member in image}
    index = json.loads(files.pop("index.json"))
    assert json.loads(files.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    blobs = {name.replace("blobs/sha256/", "sha256:"): content for name, content in files.items()}
    assert all(digest(content) == name for name, content in blobs.items())

    [entry] = index["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": NAME}
    manifest = json.loads(blobs.pop(entry["digest"]))
    assert [layer["digest"] for layer in manifest["layers"]] == [digest(BASE), digest(CODE)]
    assert [layer["size"] for layer in manifest["layers"]] == [len(BASE), len(CODE)]
    assert blobs.keys() == {manifest["config"]["digest"], digest(CODE)}
