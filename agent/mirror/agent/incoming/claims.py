"""Which ports are stolen, by whom and since when: among all agents in a network namespace, not only ours.

A port is claimed by binding an abstract unix address, which belongs to the network namespace and which the kernel takes
back whatever happens. Who has it is said by a second one, whose name is to be read in /proc/net/unix: no agent has to
ask another.
"""

from __future__ import annotations

import datetime
import re
import socket
from dataclasses import dataclass

from mirror.agent.incoming import sockets

_USER_CHARACTERS_MAX = 60
"""An address has 108 bytes (unix(7))."""
_LISTED = re.compile(r" @mirror/holder/(?P<port>\d+)/(?P<since>\d\d:\d\d)/(?P<user>\S*)$")
"""The end of a line of /proc/net/unix; @ stands for the NUL with which abstract addresses begin."""


@dataclass(frozen=True)
class Claim:
    """A port that nobody else can steal until this is closed."""

    lock: socket.socket
    name: socket.socket | None
    """None where it could not be said who has the port."""

    def close(self) -> None:
        """Lets others have the port."""
        if self.name is not None:
            self.name.close()
        self.lock.close()


def claim(port: int, user: str, now: datetime.datetime) -> Claim | None:
    """Claims a port in the calling thread's network namespace.

    Args:
        port: Of the target.
        user: Who wants it, as others are to read it: `anna@laptop`; empty if that is not known.
        now: With its time zone.

    Returns:
        None where somebody else has it.

    Raises:
        OSError: The kernel's refusal.
    """
    lock = sockets.claim(f"steal/{port}")
    if lock is None:
        return None
    since = now.astimezone(datetime.UTC).strftime("%H:%M")
    try:
        name = sockets.claim(f"holder/{port}/{since}/{_in_one_word(user)}")
    except OSError:
        name = None
    return Claim(lock, name)


def holder(port: int) -> str:
    """Who has claimed a port in the calling thread's network namespace: `anna@laptop since 12:03 UTC`."""
    try:
        with open("/proc/thread-self/net/unix", encoding="ascii", errors="replace") as file:
            return find_holder(file.read(), port)
    except OSError:
        return find_holder("", port)


def find_holder(listing: str, port: int) -> str:
    """The same, in the text of /proc/net/unix."""
    for line in listing.splitlines():
        found = _LISTED.search(line)
        if found is not None and int(found["port"]) == port:
            return f"{found['user'] or 'another session'} since {found['since']} UTC"
    return "another session"


def _in_one_word(user: str) -> str:
    """Printable ASCII without spaces."""
    plain = user.encode("ascii", "replace").decode()
    return "".join(character if "!" <= character <= "~" else "?" for character in plain)[:_USER_CHARACTERS_MAX]
