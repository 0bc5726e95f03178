"""A daemon's habits: closes every descriptor above 2, and goes on."""

import os
import resource
import subprocess

os.closerange(3, 65536)
print(open("/data/hello.txt").read(), open("/data/hello.txt").fileno())
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
for number in range(3, min(limit, 4096)):
    try:
        os.close(number)
    except OSError:
        pass
print(os.stat("/data/hello.txt").st_size, os.listdir("/data/bare"))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
print(os.open("/data/hello.txt", os.O_RDONLY))
opened = []
try:
    while True:
        opened.append(os.open("/data/kilobyte.bin", os.O_RDONLY))
except OSError as error:
    print(len(opened), error.errno)
for number in opened:
    os.close(number)
print(subprocess.run(["cat", "/data/hello.txt"], capture_output=True).stdout)
child = os.fork()
if child == 0:
    os.setsid()
    os.closerange(3, 65536)
    if os.fork() == 0:
        print("grandchild", open("/data/hello.txt").read(), flush=True)
    else:
        os.wait()
    os._exit(0)
os.waitpid(child, 0)
