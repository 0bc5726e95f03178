"""http.server in a thread, asked by the cluster while the program does other things."""

import http.server
import os
import socket
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    def handle(self):
        # The dialer does not speak HTTP: a line in, a line out.
        question = self.rfile.readline().decode().strip()
        text = open("/data/hello.txt").read().strip()
        self.wfile.write(f"{question} to {self.client_address[0]}:{self.client_address[1]}: {text}\n".encode())


server = http.server.ThreadingHTTPServer(("", 9010), Handler)
print(server.server_address, server.socket.getsockname())
threading.Thread(target=server.serve_forever, daemon=True).start()


def dial(source):
    with socket.create_connection((os.environ["SCENE_STOREFRONT"], 7001)) as dialer:
        dialer.sendall(f"{os.environ['SCENE_POD']} 9010 {source}\n".encode())
        return dialer.makefile().read()


for source in range(20200, 20205):
    print(dial(source), end="")
answers = {}
threads = [
    threading.Thread(target=lambda source=source: answers.update({source: dial(source)}))
    for source in range(20210, 20226)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(answers.items()))
server.shutdown()
server.server_close()
print(dial(20230), end="")
