"""A hundred connections at once, by selectors, each echoing its own data."""

import errno
import os
import selectors
import socket

selector = selectors.DefaultSelector()
results = {}
for number in range(100):
    connection = socket.socket(socket.AF_INET if number % 2 else socket.AF_INET6)
    connection.setblocking(False)
    address = os.environ["SCENE_INVENTORY"] if number % 2 else "fd00:10:96::e05"
    port = 7009 if number % 10 == 3 else 7
    code = connection.connect_ex((address, port))
    if code not in (0, errno.EINPROGRESS):
        results[number] = errno.errorcode[code]
        continue
    selector.register(connection, selectors.EVENT_WRITE, [number, f"number {number} ".encode() * 500, b""])
while selector.get_map():
    for key, _ in selector.select(60) or 1 / 0:
        connection, state = key.fileobj, key.data
        try:
            if key.events == selectors.EVENT_WRITE:
                error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise OSError(error, "connect")
                connection.sendall(state[1])
                selector.modify(connection, selectors.EVENT_READ, state)
            else:
                data = connection.recv(65536)
                state[2] += data
                if len(state[2]) >= len(state[1]) or not data:
                    results[state[0]] = "right" if state[2] == state[1] else "wrong"
                    selector.unregister(connection)
                    connection.close()
        except OSError as error:
            results[state[0]] = errno.errorcode[error.errno]
            selector.unregister(connection)
            connection.close()
for number in sorted(results):
    print(number, results[number])
