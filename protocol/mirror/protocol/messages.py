"""Every message that mirror's processes exchange, one frozen struct each.

Two links carry them, both as `frame` describes: layer to proxy (a unix socket on the user's machine, with
descriptors passed beside a frame) and proxy to agent (one multiplexed connection). A request is imperative
(`OpenFile`), its reply is past (`FileOpened`), and every request may be answered by `Failed`.

On the wire a message is a MessagePack array: its class name, then its fields in order. Fields may be appended
if they have a default; a new kind of message needs a new capability in `Hello`. Nothing here does I/O.
Read `connection` next.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

PROTOCOL_VERSION = 1
"""Raised when an old peer could misunderstand a new one."""

UInt8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
UInt16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
UInt64 = Annotated[int, msgspec.Meta(ge=0)]
Path = Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)]
"""Absolute, in the target's root, without NUL; not normalised: the target's own kernel resolves `..` and links."""
Name = Annotated[bytes, msgspec.Meta(max_length=1025)]
"""A host or service name without NUL; NI_MAXHOST is 1025."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages."""


# --- values -----------------------------------------------------------------------------------------------


class Stat(msgspec.Struct, frozen=True, array_like=True):
    """What statx(2) says of a file in the target. Times are in nanoseconds since the epoch."""

    dev: UInt64
    """As in `st_dev` of glibc (`makedev`)."""
    ino: UInt64
    mode: UInt32
    """Type and permission bits."""
    nlink: UInt64
    uid: UInt32
    gid: UInt32
    rdev: UInt64
    size: UInt64
    """Bytes."""
    blksize: UInt64
    blocks: UInt64
    """Of 512 bytes."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int | None = None
    """None where the file system does not keep the time of birth."""
    attributes: UInt64 = 0
    """`stx_attributes`."""
    attributes_mask: UInt64 = 0
    mnt_id: UInt64 = 0
    """`stx_mnt_id`, 0 where the kernel does not tell."""


class DirectoryEntry(msgspec.Struct, frozen=True, array_like=True):
    """One name in a directory, `.` and `..` included, in the order in which the target's kernel gave them."""

    name: bytes
    ino: UInt64
    kind: UInt8
    """`d_type` (DT_REG, ...)."""
    stat: Stat | None = None
    """As lstat says; None when lstat failed or was not tried."""


class SocketAddress(msgspec.Struct, frozen=True, array_like=True):
    """An IPv4 or IPv6 endpoint."""

    address: Annotated[bytes, msgspec.Meta(min_length=4, max_length=16)]
    """4 bytes for IPv4, 16 for IPv6, network order."""
    port: UInt16
    flowinfo: UInt32 = 0
    scope_id: UInt32 = 0


class AddressInfo(msgspec.Struct, frozen=True, array_like=True):
    """One entry of getaddrinfo's answer."""

    socktype: int
    protocol: int
    endpoint: SocketAddress


class Rule(msgspec.Struct, frozen=True, array_like=True):
    """One row of the ordered path table; the first row that matches decides."""

    match: str
    """`prefix` (the path itself or below it), `exact`, `suffix`, `contains`, `any`; ASCII case does not count."""
    pattern: bytes
    access: str
    """`read`, `write` or `any`: the kind of access that the row is about."""
    verdict: str
    """`local`, `remote`, `absent` (ENOENT) or `read-only` (EROFS)."""
    reason: str
    """A name for the row, shown to users who ask why a path was local or remote."""


# --- any link ---------------------------------------------------------------------------------------------


class Failed(Message, frozen=True):
    """The answer to a request that the kernel or the resolver in the target refused."""

    errno: UInt32
    """As the call in the target set it; never 0."""
    reason: str = ""
    """One sentence for the user, empty when errno says it all."""


class Done(Message, frozen=True):
    """The answer to a request that has nothing to tell but that it was carried out."""


# --- proxy and agent: the connection ----------------------------------------------------------------------


class Hello(Message, frozen=True):
    """The client's first message."""

    version: UInt32
    oldest_version: UInt32
    """The oldest version that the client still speaks."""
    capabilities: tuple[str, ...] = ()
    user: str = ""
    """Who that is, for other users of the same agent to read: `anna@laptop`; empty: they are not told."""
    session: str = ""
    """The same each time a client connects again, and known to nobody else: its connection before, which the agent may
    not yet know to be dead, is to be ended first. Empty: it will not connect again."""


class Welcome(Message, frozen=True):
    """The agent's answer to `Hello`."""

    version: UInt32
    """The version both speak from here on."""
    capabilities: tuple[str, ...] = ()
    """What this agent can do for this target: `environment`, `files`, `names`, `outgoing`, `incoming`."""
    reasons: dict[str, str] = {}
    """For each capability that is missing, one sentence with a remedy."""


class Goodbye(Message, frozen=True):
    """The last message: why this side ends the connection."""

    reason: str
    is_targets_end: bool = False
    """Whether the agent ends because its target has: what comes next to that is to be found by the client."""


class Ping(Message, frozen=True):
    """Asks whether the other side lives. Answered by `Done`."""


class Notice(Message, frozen=True):
    """Something the user should read, from the agent."""

    text: str


class Data(Message, frozen=True):
    """Bytes of a channel's stream; never more than the receiver's credit."""

    channel: UInt32
    payload: bytes
    """Never empty."""


class Credit(Message, frozen=True):
    """The receiver of a channel has room for this many bytes more."""

    channel: UInt32
    size_bytes: UInt32


class EndOfData(Message, frozen=True):
    """No more `Data` follows in this direction; the other direction goes on."""

    channel: UInt32


class Reset(Message, frozen=True):
    """Both directions of the channel end at once; bytes in flight are dropped."""

    channel: UInt32
    errno: UInt32 = 0
    """ECONNRESET and the like where a socket failed, 0 where the sender lost interest."""


# --- environment and files --------------------------------------------------------------------------------


class ReadEnvironment(Message, frozen=True):
    """Asks for the environment of the target's process, and for the names of its machine."""


class EnvironmentRead(Message, frozen=True):
    """Answers `ReadEnvironment`."""

    variables: tuple[bytes, ...]
    """`NAME=value` each, in the process's order."""
    host_name: bytes = b""
    """As gethostname(2) says there; empty where not known."""
    domain_name: bytes = b""
    """As uname(2) says there (NIS, mostly `(none)`); empty where not known."""


class OpenFile(Message, frozen=True):
    """open(2). The answer carries as much of the content as fits; the rest follows on a channel."""

    path: Path
    flags: UInt32
    """O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_PATH, ... of the asking architecture's generic values."""
    mode: UInt32 = 0
    limit_bytes: UInt64 = 64 << 20
    """A larger regular file is answered by Failed(EFBIG)."""
    channel: UInt32 = 0
    """Where content beyond the first part is to be sent; chosen by the proxy, 0 on the layer's link."""


class FileOpened(Message, frozen=True):
    """Answers `OpenFile`.

    Proxy and agent: `content` is the file's first part (all of it if `complete`), or for a directory the
    MessagePack array of its `DirectoryEntry`s, cut the same way. Layer and proxy: `content` is empty and a
    descriptor comes beside the frame.
    """

    stat: Stat
    content: bytes = b""
    complete: bool = True
    path: bytes = b""
    """Where the file really is, as /proc/self/fd tells in the target (links resolved); empty where not known."""


class ListDirectory(Message, frozen=True):
    """Layer to proxy: the entries of a directory that was opened before, by its placeholder's numbers."""

    dev: UInt64
    ino: UInt64


class DirectoryListed(Message, frozen=True):
    """Answers `ListDirectory`. Entries larger than a frame come in a sealed memfd beside it instead."""

    entries: tuple[DirectoryEntry, ...]


class IdentifyDescriptor(Message, frozen=True):
    """Layer to proxy: what is the descriptor with these numbers? Asked after exec. ENOENT: not ours."""

    dev: UInt64
    ino: UInt64


class DescriptorIdentified(Message, frozen=True):
    """Answers `IdentifyDescriptor`."""

    path: Path
    stat: Stat


class StatFile(Message, frozen=True):
    """stat(2) or lstat(2)."""

    path: Path
    follow: bool


class FileStatted(Message, frozen=True):
    """Answers `StatFile`."""

    stat: Stat


class CheckAccess(Message, frozen=True):
    """faccessat2(2) with the credentials of the target's process."""

    path: Path
    mode: UInt32
    """R_OK | W_OK | X_OK, or F_OK."""
    flags: UInt32 = 0
    """AT_EACCESS | AT_SYMLINK_NOFOLLOW."""


class ReadLink(Message, frozen=True):
    """readlink(2)."""

    path: Path


class LinkRead(Message, frozen=True):
    """Answers `ReadLink`."""

    content: bytes


class ResolvePath(Message, frozen=True):
    """realpath(3)."""

    path: Path


class PathResolved(Message, frozen=True):
    """Answers `ResolvePath`."""

    path: Path


class StatFilesystem(Message, frozen=True):
    """statfs(2)."""

    path: Path


class FilesystemStatted(Message, frozen=True):
    """Answers `StatFilesystem`; the fields of struct statfs."""

    kind: UInt64
    bsize: UInt64
    blocks: UInt64
    bfree: UInt64
    bavail: UInt64
    files: UInt64
    ffree: UInt64
    fsid: UInt64
    """The two 32-bit words of `f_fsid`, the first one low."""
    namelen: UInt64
    frsize: UInt64
    flags: UInt64


# --- names ------------------------------------------------------------------------------------------------


class LookUpAddress(Message, frozen=True):
    """getaddrinfo(3)."""

    node: Name | None
    service: Name | None
    family: int
    socktype: int
    protocol: int
    flags: int


class AddressLookedUp(Message, frozen=True):
    """Answers `LookUpAddress`."""

    entries: tuple[AddressInfo, ...]
    canonical_name: bytes | None = None
    """Of the first entry; None unless AI_CANONNAME was asked for."""


class LookUpFailed(Message, frozen=True):
    """Answers any of the look-ups."""

    code: int
    """EAI_* for LookUpAddress and LookUpName, h_errno for LookUpHost and LookUpHostByAddress."""
    errno: UInt32 = 0
    """Where code is EAI_SYSTEM or NETDB_INTERNAL."""


class LookUpHost(Message, frozen=True):
    """gethostbyname2(3)."""

    name: Name
    family: int


class LookUpHostByAddress(Message, frozen=True):
    """gethostbyaddr(3)."""

    address: Annotated[bytes, msgspec.Meta(min_length=4, max_length=16)]


class HostLookedUp(Message, frozen=True):
    """Answers `LookUpHost` and `LookUpHostByAddress`."""

    name: bytes
    aliases: tuple[bytes, ...]
    addresses: tuple[bytes, ...]
    """4 or 16 bytes each."""


class LookUpName(Message, frozen=True):
    """getnameinfo(3)."""

    endpoint: SocketAddress
    flags: int
    wants_host: bool = True
    wants_service: bool = True


class NameLookedUp(Message, frozen=True):
    """Answers `LookUpName`."""

    host: bytes
    service: bytes


# --- outgoing ---------------------------------------------------------------------------------------------


class Connect(Message, frozen=True):
    """Connects a TCP socket in the target.

    Proxy to agent: `channel` will carry its bytes. Layer to proxy: `channel` is 0; the program's socket, already
    connecting to the proxy's own address, comes beside the frame and there is no answer.
    """

    channel: UInt32
    endpoint: SocketAddress
    bind: SocketAddress | None = None
    """What the program bound the socket to before, in the target's terms."""


class Connected(Message, frozen=True):
    """Answers `Connect`."""

    local: SocketAddress
    """As the target's getsockname says."""
    peer: SocketAddress


class AskOutcome(Message, frozen=True):
    """Layer to proxy: with which error did the `Connect` of this socket fail? Answered by Failed with it.

    Failed(ENOENT): with none; whatever error the socket has is its own. Asked once after each failure.
    """

    cookie: UInt64
    """SO_COOKIE of the program's socket: the same in every process that has it, never used twice."""


class DescribeSocket(Message, frozen=True):
    """Layer to proxy: which connection of the target is the one that has these ends on the user's machine?

    ENOENT: none, the socket is the program's own affair.
    """

    local: SocketAddress
    peer: SocketAddress


class SocketDescribed(Message, frozen=True):
    """Answers `DescribeSocket`, in the target's terms."""

    local: SocketAddress
    peer: SocketAddress


# --- incoming ---------------------------------------------------------------------------------------------


class Subscribe(Message, frozen=True):
    """Proxy to agent: hand over connections that come to a port of the target."""

    port: UInt16
    steal: bool
    """True: they are taken from the target's process. False: it keeps them and a copy of what is received comes."""
    address: bytes = b""
    """Only those to this address (4 or 16 bytes, as the program's bind); empty: to any."""
    keep_from: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=32)] = ()
    """Callers (4 or 16 bytes each) whose connections are never taken from the target's process."""
    keep_node: bool = False
    """The same for whoever calls from the target's machine itself, as the kubelet does for its probes."""
    keep_http_probes: bool = False
    """Callers speak first here, in HTTP, and those who say that they are kubelet probes stay with the process."""


class Unsubscribe(Message, frozen=True):
    """Proxy to agent: ends `Subscribe`. Connections that were handed over go on."""

    port: UInt16


class Accepted(Message, frozen=True):
    """Agent to proxy, no answer: a connection to a subscribed port; its bytes come on `channel`."""

    channel: UInt32
    """Chosen by the agent."""
    local: SocketAddress
    """Where the caller connected to, in the target."""
    peer: SocketAddress
    """The caller."""
    steal: bool
    """False: what the program answers is to be dropped."""


class Listen(Message, frozen=True):
    """Layer to proxy: the program listens. Answered when connections to the port of the target come here."""

    asked: SocketAddress
    """As the program bound it, with the port it asked for (its real one if it asked for 0)."""
    bound: SocketAddress
    """Where it really listens on the user's machine."""
    v6only: bool
    """IPV6_V6ONLY: an IPv6 wildcard address does not stand for IPv4 too."""
    inode: int
    """Of the socket, as fstat(2) and sock_diag(7) have it: at the same place a socket of somebody else's may follow."""


class ListenerClosed(Message, frozen=True):
    """Layer to proxy, no answer: look whether anything listens at `bound` any more."""

    bound: SocketAddress


class FindListener(Message, frozen=True):
    """Layer to proxy: does the session itself listen at this loopback address and port of the target?

    Failed(ENOENT): no, what listens there, if anything, is in the target.
    """

    asked: SocketAddress


class ListenerFound(Message, frozen=True):
    """Answers `FindListener`."""

    bound: SocketAddress
    """Where a connection reaches it on the user's machine; of the family that was asked for, where there is one."""


class ClaimPort(Message, frozen=True):
    """Layer to proxy: the program is going to bind here on the user's machine.

    Failed(EADDRINUSE): it shall not, since somebody outside the session has it. The kernel would let two share a port
    by SO_REUSEPORT, and with it the connections of two targets; or by SO_REUSEADDR, until one of them listens.
    """

    asked: SocketAddress


class ChoosePort(Message, frozen=True):
    """Layer to proxy: the program cannot bind here on the user's machine; where shall it bind instead?

    The port is the same for all addresses and in the whole session, so that the kernel still judges whether two
    sockets may share it.
    """

    asked: SocketAddress


class PortChosen(Message, frozen=True):
    """Answers `ChoosePort`."""

    bound: SocketAddress


# --- the layer's start ------------------------------------------------------------------------------------


class Register(Message, frozen=True):
    """Layer to proxy: a process begins. Answered by `Registered` once the hooks are in."""

    version: UInt32
    pid: UInt32
    """As the process itself sees it; the proxy trusts SO_PEERCRED."""
    cause: str
    """`exec`: put in the hooks. `fork`: they are there. `thread`: one more connection of a known process."""
    lifeline_port: UInt16
    """The local port of the process's lifeline connection; 0 where it has none."""
    program: bytes
    """Its executable, as in /proc/self/exe."""
    libc: bytes = b""
    """The build id of its C library; empty where it has none, or where a recipe for it did not fit."""


class Registered(Message, frozen=True):
    """Answers `Register`. A `thread` or `fork` connection gets the same, and may ignore it."""

    rules: tuple[Rule, ...]
    outgoing: bool
    """Whether TCP connections go to the target."""
    names: bool
    incoming: bool
    stub: SocketAddress
    """IPv4 loopback address and port that a remote connection's socket connects to."""
    delivery: bytes
    """4 bytes: the loopback address from which the proxy delivers incoming connections."""
    listeners: tuple[Listen, ...]
    """Those of the session whose `asked` and `bound` differ."""
    recipe: bytes = b""
    """How to put the hooks in, for a process of cause `exec`: the MessagePack array of
    [symbol, found, moved, [[place, distance], ...]]. `found` is the function's first instructions in this C library,
    `moved` the same for another address, but for 32-bit distances at these places; each is told as it would be if the
    new address were the old one. Empty: Frida has put the hooks in."""
    host_name: bytes = b""
    """What uname(2) says in the target; at most 64 bytes. Empty: the machine's own name stays."""
    domain_name: bytes = b""


class Refused(Message, frozen=True):
    """Answers `Register` where the hooks could not be put in: the process must not go on."""

    reason: str
    """One sentence with a remedy."""


AgentMessage = (
    Failed | Done | Hello | Welcome | Goodbye | Ping | Notice | Data | Credit | EndOfData | Reset
    | ReadEnvironment | EnvironmentRead | OpenFile | FileOpened | StatFile | FileStatted | CheckAccess
    | ReadLink | LinkRead | ResolvePath | PathResolved | StatFilesystem | FilesystemStatted
    | LookUpAddress | AddressLookedUp | LookUpFailed | LookUpHost | LookUpHostByAddress | HostLookedUp
    | LookUpName | NameLookedUp | Connect | Connected | Subscribe | Unsubscribe | Accepted
)  # fmt: skip
"""What may pass between proxy and agent."""

LayerMessage = (
    Failed | Done | OpenFile | FileOpened | ListDirectory | DirectoryListed | IdentifyDescriptor
    | DescriptorIdentified | StatFile | FileStatted | CheckAccess | ReadLink | LinkRead | ResolvePath
    | PathResolved | StatFilesystem | FilesystemStatted | LookUpAddress | AddressLookedUp | LookUpFailed
    | LookUpHost | LookUpHostByAddress | HostLookedUp | LookUpName | NameLookedUp | Connect | AskOutcome
    | DescribeSocket | SocketDescribed | Listen | ListenerClosed | FindListener | ListenerFound | ClaimPort
    | ChoosePort | PortChosen | Register | Registered | Refused
)  # fmt: skip
"""What may pass between layer and proxy."""
