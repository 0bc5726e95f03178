"""The command line: commands, options and their help. What an option means is said in `settings`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from mirror.cli.background import Proxy
from mirror.cli.configuration import parse_size
from mirror.cli.errors import EXIT_FAILED
from mirror.cli.settings import FS_MODES, REPLICAS, TRANSPORTS

_EXIT_STATUSES = """
\b
Exit status: the program's own, once it runs. Before that:
    2  the command line or the configuration file is wrong
  125  there is no such target, it may not be entered, or mirror failed
  126  the program cannot be run, or cannot be hooked (static, setuid, ...)
  127  there is no such program
"""


def run(arguments: list[str], proxy: Proxy | None, began_at: float) -> int:
    """Does what a command line says.

    Args:
        arguments: Without the name of the script.
        proxy: A proxy that was started beforehand, for a session.
        began_at: When this process began, by `time.monotonic`.

    Returns:
        The exit status.

    Raises:
        MirrorError: It could not be done.
    """
    try:
        status = mirror.main(arguments, prog_name=_name(), standalone_mode=False, obj=(proxy, began_at))
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_FAILED
    return status if isinstance(status, int) else 0  # of `Context.exit`


def _name() -> str:
    """What the user typed: kubectl runs `kubectl-mirror` for `kubectl mirror`."""
    return "kubectl mirror" if os.path.basename(sys.argv[0]) == "kubectl-mirror" else "mirror"


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            click.echo(f"mirror {metadata.version('mirror')}")
        except metadata.PackageNotFoundError:  # run from a checkout
            click.echo("mirror, not installed")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version)
def mirror() -> None:
    """Run a program on your own machine as if it ran inside a chosen pod, container or process.

    It sees the target's environment, files, names and network, and gets a copy of the target's incoming
    connections, or takes them over, while it runs under your own debugger.
    """


_Command = TypeVar("_Command", bound=Callable[..., Any])

_SECONDS = click.FloatRange(min=0)
_WHOLE_SECONDS = click.IntRange(min=0)


def _size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no size; write it as 64M or 2G") from None


def _globs(_context: click.Context, _parameter: click.Parameter, values: Iterable[str]) -> tuple[str, ...]:
    return tuple(glob for value in values for glob in value.split(";") if glob)


def _assignments(_context: click.Context, _parameter: click.Parameter, values: Iterable[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.BadParameter(f"{name!r} is no NAME=VALUE")
    return {name: value for name, _, value in pairs}


@mirror.command(
    "exec",
    epilog=_EXIT_STATUSES,
    context_settings={"allow_interspersed_args": False},
    short_help="Run a program as if it ran in a target.",
)
@click.option(
    "-t",
    "--target",
    metavar="TARGET",
    help="In a cluster: pod/, deployment/, statefulset/, daemonset/, replicaset/, job/, cronjob/, service/ or "
    "rollout/NAME, or label/KEY=VALUE, each with /container/NAME after it if need be. On this machine: "
    "container/NAME, pid/N or demo. targetless, as without -t: only a cluster's names and network.",
)
@click.option("-n", "--namespace", "--target-namespace", metavar="NAME", help="The target's; else the context's.")
@click.option("--context", metavar="NAME", help="Of the kubeconfig; else its current one.")
@click.option("--kubeconfig", metavar="FILE", help="Instead of what KUBECONFIG names, or ~/.kube/config.")
@click.option("--steal", "incoming", flag_value="steal", help="Take over connections to ports the program listens on.")
@click.option("--mirror", "incoming", flag_value="mirror", help="Give the program a copy of them (default).")
@click.option("--no-incoming", "incoming", flag_value="off", help="Leave them alone; only local callers are served.")
@click.option(
    "--replicas", type=click.Choice(REPLICAS), help="Have them from all pods of the target, or from one (all)."
)
@click.option("--steal-probes", is_flag=True, help="With --steal, take the kubelet's probes too.")
@click.option("--no-outgoing", is_flag=True, help="Connect from this machine instead of from the target.")
@click.option("--no-remote-dns", is_flag=True, help="Look up names on this machine instead of in the target.")
@click.option(
    "--fs-mode",
    type=click.Choice(FS_MODES),
    help="Whose files: read (default): the target's are read, writes stay here; write: the target's are read, and "
    "cannot be written yet (EROFS); local: this machine's; localwithoverrides: this machine's but for /etc/hosts, "
    "/etc/resolv.conf and the like.",
)
@click.option("--file-limit", metavar="SIZE", callback=_size, help="Largest file to fetch from the target (64M).")
@click.option("-i", "--agent-image", metavar="IMAGE", help="The agent's image; else mirror-agent of this release.")
@click.option("-a", "--agent-namespace", metavar="NAME", help="Where the agent runs; else where its target does.")
@click.option(
    "--ephemeral/--no-ephemeral",
    default=None,
    help="Run the agent as an ephemeral container of the target's pod instead of as a Job beside it.",
)
@click.option(
    "--agent-transport",
    type=click.Choice(TRANSPORTS),
    help="Reach the agent by the API server's port-forward (default), or directly at its pod's address.",
)
@click.option("--agent-startup-timeout", metavar="SECONDS", type=_SECONDS, help="How long to wait for the agent (60).")
@click.option(
    "--agent-ttl", metavar="SECONDS", type=_WHOLE_SECONDS, help="How long its Job stays when it has ended (1)."
)
@click.option(
    "--reconnect-timeout",
    metavar="SECONDS",
    type=_SECONDS,
    help="How long requests wait when the connection to the agent has broken, before they fail (30).",
)
@click.option("-s", "--env-include", metavar="GLOBS", multiple=True, callback=_globs, help="Take only these variables.")
@click.option("-x", "--env-exclude", metavar="GLOBS", multiple=True, callback=_globs, help="Take all but these.")
@click.option("--env", metavar="NAME=VALUE", multiple=True, callback=_assignments, help="Set a variable.")
@click.option("--unset", metavar="NAME", multiple=True, callback=_globs, help="Remove a variable.")
@click.option("-f", "--config-file", metavar="FILE", help="JSON, TOML or YAML; the options above win over it.")
@click.option("-v", "--verbose", count=True, help="Say on standard error what is being done, with times.")
@click.argument("command", metavar="-- PROGRAM [ARGUMENTS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_command(
    started: tuple[Proxy | None, float],
    /,
    command: tuple[str, ...],
    config_file: str | None,
    verbose: int,
    **options: Any,
) -> None:
    """Run a program as if it ran in a target.

    The program takes the place of this command: same process, same terminal, same exit status. Put `--` before it,
    so that its options are its own.

    \b
      mirror exec -t deployment/web -- python app.py
      mirror exec -t pod/web-0/container/app -n shop --steal -- gdb --args ./server
      mirror exec -t demo -- sh -c 'cat /etc/hostname; env'
    """  # noqa: D301 - click wants the control character
    from mirror.cli import background, configuration, settings
    from mirror.cli.commands import exec as exec_

    proxy, began_at = started
    report = exec_.Report(verbose=verbose > 0, began_at=began_at)
    report.progress("command line read")
    file = configuration.read(config_file) if config_file is not None else {}
    wanted = settings.combine(file, _given(options))
    if wanted.target == settings.TARGETLESS and options["target"] is None and "target" not in file:
        report.warn(
            "no target was named with -t, so the program gets the cluster's names and network only, by a pod made for "
            "it; -t targetless asks for that"
        )
    try:
        exec_.run(wanted, command, proxy or background.start(), report)
    finally:
        report.clear()


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Settings` that the command line sets."""
    fields = {
        "target": options["target"],
        "namespace": options["namespace"],
        "context": options["context"],
        "kubeconfig": options["kubeconfig"],
        "agent": _given_agent(options) or None,
        "incoming": options["incoming"],
        "replicas": options["replicas"],
        "steals_probes": options["steal_probes"] or None,
        "outgoing": False if options["no_outgoing"] else None,
        "names": False if options["no_remote_dns"] else None,
        "fs_mode": options["fs_mode"],
        "file_limit_bytes": options["file_limit"],
        "reconnect_timeout_s": options["reconnect_timeout"],
        "include": options["env_include"] or None,
        "exclude": options["env_exclude"] or None,
        "override": options["env"] or None,
        "unset": options["unset"] or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _given_agent(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `AgentSettings`."""
    fields = {
        "image": options["agent_image"],
        "namespace": options["agent_namespace"],
        "is_ephemeral": options["ephemeral"],
        "transport": options["agent_transport"],
        "startup_timeout_s": options["agent_startup_timeout"],
        "ttl_s": options["agent_ttl"],
    }
    return {name: value for name, value in fields.items() if value is not None}


_OUTPUT = click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", help="How to print it.")


def _where(command: _Command) -> _Command:
    """The options that say which cluster and namespace."""
    for option in (
        click.option("--kubeconfig", metavar="FILE", default="", help="Instead of KUBECONFIG's, or ~/.kube/config."),
        click.option("--context", metavar="NAME", default="", help="Of the kubeconfig; else its current one."),
        click.option("-n", "--namespace", metavar="NAME", default="", help="Else the context's."),
    ):
        command = option(command)
    return command


@mirror.command("ls")
@_where
@_OUTPUT
def ls_command(namespace: str, context: str, kubeconfig: str, output: str) -> None:
    """Show what can be a target in a namespace, and how many of its pods are ready."""
    from mirror.cli.commands import cluster

    cluster.show_targets(cluster.Where(namespace, context, kubeconfig), output)


@mirror.command("agents")
@_where
@click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")
@click.option("--remove", is_flag=True, help="Remove them; their sessions connect again, to new ones if they may.")
@_OUTPUT
@click.argument("names", metavar="[NAME]...", nargs=-1)
def agents_command(
    namespace: str,
    context: str,
    kubeconfig: str,
    all_namespaces: bool,
    remove: bool,
    output: str,
    names: tuple[str, ...],
) -> None:
    """Show mirror's agents in the cluster, or remove them.

    They end by themselves some seconds after their last session, so there is rarely a need to.
    """
    from mirror.cli.commands import cluster

    where = cluster.Where(namespace, context, kubeconfig, all_namespaces)
    cluster.show_agents(where, output, names, is_removing=remove)


@mirror.command("rbac")
@click.argument("who", type=click.Choice(("user", "ephemeral", "admin")), default="user")
def rbac_command(who: str) -> None:
    """Print the rights that users need (for --ephemeral too; or that help administrators), for kubectl apply -f -."""
    from mirror.cli.cluster import rights

    click.echo(rights.role(who), nl=False)


@mirror.command("doctor")
@_where
@click.pass_context
def doctor_command(call: click.Context, namespace: str, context: str, kubeconfig: str) -> None:
    """Say what will work on this machine and in the cluster, and what will not and why.

    \b
    ok    it works
    less  something less works, which the line says
    no    targets of the cluster cannot be mirrored; the exit status is 125 then
    info  nothing depends on it, or it could not be found out
    """  # noqa: D301 - click wants the control character
    from mirror.cli.commands import cluster, doctor

    call.exit(doctor.run(cluster.Where(namespace, context, kubeconfig)))
