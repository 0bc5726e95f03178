"""What runs on the user's machine: the command line, the session's proxy, and how targets are found.

`main` parses; `commands` does what was asked for; `proxy` is the process that serves one session; `inject` puts
the hooks into a process; `targets` finds or makes the process that the program should seem to run beside. The
modules beside this file are pure decisions, shared by these: no sockets, no processes.

Importing this package costs nothing: `mirror exec` must be quick, so each process imports what it needs, when it
needs it.
"""
