"""Puts the hooks into processes that wait for them: `Injector`.

Frida finds out once for each build of the C library how its functions can be replaced, in a process made for that,
and every process of every session then does the same by that recipe itself, in less than a millisecond
(`layer/native/recipe.c`). Where no recipe is known or possible, Frida attaches to the process. It leaves it again
when the hooks are in. This package is the only one that knows Frida; nothing here knows sessions, rules or messages.

    recipes          which processes need Frida, and what is known for the others
    cache            recipes of earlier sessions
    frida_process    the process that Frida runs in, from outside; `__main__` is its inside
    attachment       Frida attaches to one process
"""

from mirror.cli.inject.attachment import InjectFailed
from mirror.cli.inject.recipes import Injector

__all__ = ["InjectFailed", "Injector"]
