"""Every way in which Python starts children."""

import multiprocessing
import os
import subprocess
import sys

READ = ["cat", "/data/hello.txt"]


def show(what, result):
    print(what, result.returncode, result.stdout)


show("run", subprocess.run(READ, capture_output=True))
show("close_fds=False", subprocess.run(READ, capture_output=True, close_fds=False))
show("no environment", subprocess.run(["/bin/cat", READ[1]], capture_output=True, env={}))
show("shell", subprocess.run("cat /data/hello.txt | tr a-z A-Z", capture_output=True, shell=True))
show("session", subprocess.run(READ, capture_output=True, start_new_session=True))
show("preexec", subprocess.run(READ, capture_output=True, preexec_fn=lambda: os.chdir("/")))
show("cwd", subprocess.run(["cat", "hello.txt"], capture_output=True, cwd="/data"))
show("remote stdin", subprocess.run(["cat"], capture_output=True, stdin=open("/data/hello.txt")))
show("missing file", subprocess.run(["cat", "/data/missing"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
with open("/data/kilobyte.bin", "rb") as file:
    code = f"import os; print(len(os.read({file.fileno()}, 5000)))"
    show("pass_fds", subprocess.run([sys.executable, "-c", code], capture_output=True, pass_fds=[file.fileno()]))
try:
    subprocess.run(["no-such-program"])
except FileNotFoundError as error:
    print("no program", error.errno)
pipe = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print("conversation", pipe.communicate(open("/data/hello.txt", "rb").read()))
print("os.system", os.system("exec cat /data/hello.txt > /dev/null"))
with os.popen("cat /data/hello.txt") as pipe:  # waits for the child, of which nothing may be left below
    print("os.popen", pipe.read())
sys.stdout.flush()
print("spawnv", os.spawnv(os.P_WAIT, "/bin/cat", READ))
sys.stdout.flush()
child = os.posix_spawn("/bin/cat", READ, os.environ)
print("posix_spawn", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.stdout.flush()
child = os.fork()
if child == 0:
    print("forked", open("/data/hello.txt").read())
    sys.stdout.flush()
    os.execv("/bin/cat", READ)
print("fork", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def length(path):
    return len(open(path).read())


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print("pool", pool.map(length, ["/data/hello.txt", "/data/lines.csv", "/app/config/orders.ini"]))
    processes = [subprocess.Popen(["cat", f"/data/hundred/{n:03}.txt"], stdout=subprocess.PIPE) for n in range(16)]
    print("sixteen", [process.communicate()[0][:3] for process in processes])
    nested = "import subprocess; print(subprocess.run(['sh', '-c', 'cat /data/hello.txt'], capture_output=True).stdout)"
    show("three deep", subprocess.run([sys.executable, "-c", nested], capture_output=True))
    try:
        os.wait()
    except ChildProcessError:
        print("no more children")
