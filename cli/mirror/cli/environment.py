"""The program's environment: the target's variables over the user's, but for those that must stay the user's.

A program that seems to run in the target must find the target's settings (`DATABASE_URL`, service addresses,
feature switches), but it is the user's own interpreter, in the user's own terminal, with the user's own files
beside it: what leads to those is never taken from the target. Pure: lists in, lists out.

Variables are `(name, value)` pairs of str, bytes that are not UTF-8 being kept by `surrogateescape`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from mirror.cli.errors import EXIT_USAGE, MirrorError

Variables = Sequence[tuple[str, str]]

TOOLCHAIN_HOMES = (
    "ASDF_DATA_DIR", "ASDF_DIR", "BUNDLE_PATH", "BUN_INSTALL", "CARGO_HOME", "CATALINA_BASE", "CATALINA_HOME",
    "CLASSPATH", "CONDA_PREFIX", "DENO_DIR", "DOTNET_ROOT", "GEM_HOME", "GEM_PATH", "GOMODCACHE", "GOPATH",
    "GOROOT", "GRADLE_HOME", "GRADLE_USER_HOME", "JAVA_HOME", "JRE_HOME", "LD_LIBRARY_PATH", "M2_HOME",
    "MAVEN_HOME", "MISE_DATA_DIR", "NODE_PATH", "NUGET_PACKAGES", "NVM_DIR", "PERL5LIB", "PNPM_HOME",
    "PYENV_ROOT", "PYTHONHOME", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONUSERBASE", "RBENV_ROOT", "RUBYLIB",
    "RUSTUP_HOME", "SDKMAN_DIR", "UV_CACHE_DIR", "VIRTUAL_ENV", "VOLTA_HOME",
)  # fmt: skip
"""Variables that hold directories (separated by `:`) of the user's languages and their libraries.

Never taken over, and `proxy.rules` keeps the directories themselves local.
"""

NEVER_TAKEN = {
    "where the user's own programs and files are": (
        "PATH", "MANPATH", "INFOPATH", "HOME", "PWD", "OLDPWD", "SHELL", "SHLVL", "_", "TMPDIR", "TMP", "TEMP", "XDG_*",
    ),
    "who the user is on their own machine": ("USER", "LOGNAME", "MAIL", "HOSTTYPE", "OSTYPE", "MACHTYPE"),
    "the terminal and the desktop": (
        "TERM", "TERMINFO", "TERMINFO_DIRS", "TERM_PROGRAM*", "COLORTERM", "LS_COLORS", "LINES", "COLUMNS", "DISPLAY",
        "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "EDITOR", "VISUAL", "PAGER", "GPG_TTY",
        "GPG_AGENT_INFO", "SSH_AGENT_PID", "SSH_ASKPASS", "SSH_AUTH_SOCK", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY",
        "STY", "TMUX*", "WINDOWID", "PS1", "PS2", "PS4", "PROMPT_COMMAND", "INPUTRC", "HISTFILE",
    ),
    "what the dynamic linker and libc of this machine load": (
        "LD_*", "GLIBC_TUNABLES", "MALLOC_*", "GCONV_PATH", "LOCPATH", "NLSPATH",
    ),
    "the user's languages and tools": (
        *TOOLCHAIN_HOMES, "BASH_ENV", "BASHOPTS", "SHELLOPTS", "BASH_FUNC_*", "BUNDLE_*", "BUNDLER_*", "CARGO*",
        "CGO_*", "COMPlus_*", "CORECLR_*", "CORE_LIBRARY_PATH", "COR_*", "DOTNET_*", "GEM_*", "GOBIN",
        "GOCACHE", "GODEBUG", "GOFLAGS", "GOMAXPROCS", "GOMEMLIMIT", "GOOS", "GOARCH", "GOPROXY", "GOTOOLCHAIN",
        "GOTRACEBACK", "JAVA_TOOL_OPTIONS", "JAVA_OPTS", "JAVA_VERSION", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS",
        "MAVEN_OPTS", "NODE_OPTIONS", "NODE_VERSION", "NPM_*", "npm_*", "NVM_*", "PERL5OPT",
        "PIP_*", "POETRY_*", "PYENV_*", "PYTHON*", "RBENV_*", "RUBY*", "RUSTC*", "RUSTFLAGS", "RUST_LOG",
        "RUST_BACKTRACE", "UV_PROJECT_*", "UV_PYTHON*", "UV_TOOL_*", "UV_USE_IO_URING", "VIRTUAL_ENV_PROMPT", "YARN_*",
    ),
    "mirror's own": ("MIRROR_*",),
}  # fmt: skip
"""Names that stay the user's, by the reason why; `*` stands for any end of a name. Also when an include pattern matches
them: to give the program another value, say it with an override."""

_KEPT = [glob for globs in NEVER_TAKEN.values() for glob in globs]
_KEPT_NAMES = frozenset(glob for glob in _KEPT if not glob.endswith("*"))
_KEPT_PREFIXES = tuple(glob[:-1] for glob in _KEPT if glob.endswith("*"))


@dataclasses.dataclass(frozen=True)
class EnvironmentRules:
    """What the user asked for.

    Attributes:
        include: Globs; only the target's variables that match one are taken. Empty: all.
        exclude: Globs; the target's variables that match one are not taken. Not together with `include`.
        override: Set in the end, whoever had them.
        unset: Names, without regard to case, that the program does not get at all.
        enabled: False: nothing is taken from the target; `override` and `unset` still hold.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    override: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unset: tuple[str, ...] = ()
    enabled: bool = True

    def __post_init__(self) -> None:
        if self.include and self.exclude:
            raise MirrorError(
                "environment variables can be included or excluded, not both: an include list already leaves out "
                "everything else",
                EXIT_USAGE,
            )
        for name in self.override:
            if not name or "=" in name or "\0" in name or "\0" in self.override[name]:
                raise MirrorError(f"{name!r} is no name of an environment variable: use NAME=VALUE", EXIT_USAGE)


def is_never_taken(name: str) -> bool:
    """Whether the variable stays the user's, whatever the target says."""
    return name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)


def merge(user: Variables, target: Variables, rules: EnvironmentRules) -> list[tuple[str, str]]:
    """Makes the program's environment.

    Args:
        user: As `mirror exec` was given it, in order.
        target: Of the target's process. Where a name comes twice, the first one counts, as for getenv(3).
        rules: What the user asked for.

    Returns:
        The user's variables in their order, with the target's values where taken, then those that only the
        target or the overrides have. A name comes once, but for the user's own repetitions that nothing touched.
    """
    values = _taken(target, rules) | dict(rules.override)
    unset = {name.casefold() for name in rules.unset}
    merged = []
    left = dict(values)
    for name, value in user:
        if name not in values:
            merged.append((name, value))
        elif name in left:
            merged.append((name, left.pop(name)))
    merged += left.items()
    return [(name, value) for name, value in merged if name.casefold() not in unset]


def _taken(target: Variables, rules: EnvironmentRules) -> dict[str, str]:
    if not rules.enabled:
        return {}
    taken: dict[str, str] = {}
    for name, value in target:
        is_wanted = _matches(name, rules.include) if rules.include else not _matches(name, rules.exclude)
        if is_wanted and name not in taken and not is_never_taken(name):
            taken[name] = value
    return taken


def _matches(name: str, globs: Iterable[str]) -> bool:
    """Whether a name matches one of some globs (`*`, `?`, `[...]`), case counting."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def parse_block(block: bytes) -> list[tuple[str, str]]:
    """Reads an environment as in /proc/PID/environ: `NAME=value` each, ended by NUL.

    Entries without `=` are left out: getenv(3) does not find them.
    """
    return [pair for entry in block.split(b"\0") if (pair := parse_entry(entry)) is not None]


def parse_entry(entry: bytes) -> tuple[str, str] | None:
    """Reads one `NAME=value`; None if it is none."""
    name, equals, value = entry.decode("utf-8", "surrogateescape").partition("=")
    return (name, value) if name and equals else None


def format_block(variables: Variables) -> list[bytes]:
    """What execve(2) takes: `NAME=value` each."""
    return [f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in variables]
