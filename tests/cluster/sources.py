"""Debian's package sources as this machine reaches them, mirrors and proxies included."""

from __future__ import annotations

import platform

from tests.cluster.commands import run
from tests.cluster.places import ClusterError

RELEASE = "bookworm"
"""The release whose source package is places.KUBERNETES, and whose packages are in the images."""


def debian_sources(kind: str) -> str:
    """Lines for apt's sources.list; the kind is `deb` or `deb-src`.

    Raises:
        ClusterError: this machine's apt does not know that release.
    """
    lines = _lines(kind)
    if not lines:  # apt knows where its sources come from once it has read them
        run(["apt-get", "-qq", "update"])
        lines = _lines(kind)
    if not lines:
        raise ClusterError(
            f"without a Docker engine the cluster is made from Debian {RELEASE}'s packages, and this machine's apt has "
            f"none of them ({platform.freedesktop_os_release().get('PRETTY_NAME', 'not Debian')}): start Docker"
        )
    return "\n".join(lines) + "\n"


def _lines(kind: str) -> list[str]:
    fields = "$(ORIGIN)|$(SITE)|$(RELEASE)|$(COMPONENT)"
    targets = set(run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).splitlines())
    lines = []
    for origin, site, release, component in sorted(target.split("|") for target in targets):
        if origin == "Debian" and component == "main" and release.split("-")[0] == RELEASE:
            lines.append(f"{kind} {site} {release} {component}")
    return lines
