"""Threads that read while others fork and start programs."""

import os
import subprocess
import threading

problems = []
lock = threading.Lock()


def read(number):
    for round in range(30):
        path = f"/data/hundred/{(number * 13 + round) % 100:03}.txt"
        expected = str((number * 13 + round) % 100)
        if open(path).readline().strip() != expected:
            problems.append(path)


def start():
    for _ in range(4):
        if subprocess.run(["cat", "/data/hello.txt"], capture_output=True).stdout != b"Hello from the pod.\n":
            problems.append("cat")


def fork():
    for _ in range(6):
        child = os.fork()
        if child == 0:
            os._exit(0 if os.stat("/data/hello.txt").st_size == 20 else 1)
        if os.waitpid(child, 0)[1]:
            problems.append("fork")


threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
threads += [threading.Thread(target=start), threading.Thread(target=fork)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(problems)
