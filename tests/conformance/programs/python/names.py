"""The socket module's look-ups."""

import socket


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
    "10.96.14.5",
    "",
    None,
):
    attempt("getaddrinfo", name, 80)
    attempt("getaddrinfo", name, "http", socket.AF_INET, socket.SOCK_STREAM)
    if name is not None:
        attempt("gethostbyname", name)
        attempt("gethostbyname_ex", name)
attempt("getaddrinfo", "stock", None, flags=socket.AI_CANONNAME)
attempt("gethostbyaddr", "10.96.14.5")
attempt("gethostbyaddr", "10.244.7.23")
attempt("gethostbyaddr", "10.1.1.1")
attempt("getfqdn", "inventory")
attempt("getnameinfo", ("10.96.14.5", 80), 0)
attempt("getnameinfo", ("fd00:10:96::e05", 443), 0)
attempt("getservbyname", "http")
attempt("getprotobyname", "tcp")
