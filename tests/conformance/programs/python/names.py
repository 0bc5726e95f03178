"""The socket module's look-ups."""

import os
import socket

INVENTORY, POD = os.environ["SCENE_INVENTORY"], os.environ["SCENE_POD"]


def attempt(what, *arguments, **keywords):
    try:
        result = getattr(socket, what)(*arguments, **keywords)
        print(what, arguments, result)
    except OSError as error:
        print(what, arguments, type(error).__name__, error.args)


for name in (
    "inventory",
    "stock",
    "audit",
    "storefront",
    "no-such-name",
    "broken",
    "localhost",
    INVENTORY,
    "",
    None,
):
    attempt("getaddrinfo", name, 80)
    attempt("getaddrinfo", name, "http", socket.AF_INET, socket.SOCK_STREAM)
    if name is not None:
        attempt("gethostbyname", name)
        attempt("gethostbyname_ex", name)
attempt("getaddrinfo", "stock", None, flags=socket.AI_CANONNAME)
attempt("gethostbyaddr", INVENTORY)
attempt("gethostbyaddr", POD)
attempt("gethostbyaddr", "10.1.1.1")
attempt("getfqdn", "inventory")
attempt("getnameinfo", (INVENTORY, 80), 0)
attempt("getnameinfo", ("fd00:10:96::e05", 443), 0)
attempt("getservbyname", "http")
attempt("getprotobyname", "tcp")
