"""Which messages are requests, what may answer them, which are notifications, and which ones begin a channel.

Tables, so that both ends of a link judge alike. A new message needs a row here. Nothing here remembers anything.
"""

from __future__ import annotations

from mirror.protocol import messages as m

ANSWERS: dict[type[m.Message], tuple[type[m.Message], ...]] = {
    m.Ping: (m.Done,),
    m.ReadEnvironment: (m.EnvironmentRead,),
    m.OpenFile: (m.FileOpened,),
    m.StatFile: (m.FileStatted,),
    m.CheckAccess: (m.Done,),
    m.ReadLink: (m.LinkRead,),
    m.ResolvePath: (m.PathResolved,),
    m.StatFilesystem: (m.FilesystemStatted,),
    m.LookUpAddress: (m.AddressLookedUp, m.LookUpFailed),
    m.LookUpHost: (m.HostLookedUp, m.LookUpFailed),
    m.LookUpHostByAddress: (m.HostLookedUp, m.LookUpFailed),
    m.LookUpName: (m.NameLookedUp, m.LookUpFailed),
    m.Connect: (m.Connected,),
    m.Subscribe: (m.Done,),
    m.Unsubscribe: (m.Done,),
}
"""The requests of proxy and agent, and what answers them when nothing failed; `Failed` may answer any."""

NOTIFICATIONS: frozenset[type[m.Message]] = frozenset({m.Notice, m.Accepted, m.Unsubscribe})
"""What proxy and agent tell each other without an answer, beside what `connection` itself lives on."""


def channel_begun(message: m.Message) -> int:
    """The channel that a request or notification begins; 0 if none."""
    match message:
        case m.OpenFile() | m.Connect() | m.Accepted():
            return message.channel
        case _:
            return 0


def keeps_channel(answer: m.Message) -> bool:
    """Whether the channel that a request began lives on after this answer to it."""
    match answer:
        case m.Connected():
            return True
        case m.FileOpened():
            return not answer.complete
        case _:
            return False
