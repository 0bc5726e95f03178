"""`mirror ls` and `mirror agents`: what there is in a cluster, as a table or as JSON on standard output."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import click
import trio

from mirror.cli.cluster import failures, inventory
from mirror.cli.cluster.access import find_access
from mirror.cli.cluster.api import Api, ApiError, open_api
from mirror.cli.errors import MirrorError


@dataclasses.dataclass(frozen=True)
class Where:
    """Which cluster and namespace a command is about; empty: what the kubeconfig says."""

    namespace: str
    context: str
    kubeconfig: str
    everywhere: bool = False
    """All namespaces."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Api, str]]:
        """The API server, and the namespace; empty: all."""
        access = await find_access(os.environ, kubeconfig=self.kubeconfig or None, context=self.context or None)
        async with open_api(access) as api:
            yield api, "" if self.everywhere else self.namespace or access.namespace


def show_targets(where: Where, output: str) -> None:
    """Prints what may be a target. Raises MirrorError."""

    async def ask() -> tuple[list[inventory.TargetRow], list[str], str]:
        async with where.open() as (api, namespace):
            return *await inventory.list_targets(api, namespace), namespace

    rows, refused, namespace = trio.run(ask)
    if refused:
        sentence = f"you lack the right to list {', '.join(refused)} in namespace {namespace}, so they are not shown"
        if not rows:
            raise MirrorError(f"{sentence}; have an administrator of the cluster grant it (see mirror rbac)")
        click.echo(f"mirror: {sentence}", err=True)
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(row) | {"available": row.ready > 0} for row in rows], indent=2))
    elif rows:
        lines = [(row.target, f"{row.ready}/{row.pods}", ",".join(row.containers)) for row in rows]
        click.echo(table(("TARGET", "READY", "CONTAINERS"), lines))
    else:
        raise MirrorError(f"there is nothing to mirror in namespace {namespace}; choose another with -n")


def show_agents(where: Where, output: str, names: Sequence[str], *, is_removing: bool) -> None:
    """Prints which agents there are, or removes them. Raises MirrorError."""

    async def ask() -> tuple[list[inventory.AgentRow], str]:
        async with where.open() as (api, namespace):
            place = f"namespace {namespace}" if namespace else "all namespaces"
            try:
                rows, unseen = await inventory.list_agents(api, namespace)
                if missing := set(names) - {row.job for row in rows}:
                    raise MirrorError(f"there is no agent {min(missing)} in {place}; `mirror agents` lists them")
                chosen = [row for row in rows if row.job in names or not names]
                if is_removing and not names:
                    chosen = [row for row in chosen if row.uid]  # the others cannot be removed
                for row in chosen if is_removing else ():
                    await inventory.remove_agent(api, row)
            except ApiError as error:
                doing = "remove agents" if is_removing else "show agents"
                raise MirrorError(failures.explain(error, doing, namespace)) from None
            return chosen, unseen

    rows, unseen = trio.run(ask)
    if unseen and not is_removing:
        click.echo(f"mirror: {unseen}, so agents that are ephemeral containers are not shown", err=True)
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return
    if is_removing:
        for row in rows:
            click.echo(f"{row.namespace}/{row.job} is being removed")
        return
    lines = [(row.namespace, row.job, row.target, row.state, row.began, ",".join(row.features)) for row in rows]
    click.echo(table(("NAMESPACE", "AGENT", "TARGET", "STATE", "SINCE", "FEATURES"), lines))


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need be."""
    rows = [head, *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
