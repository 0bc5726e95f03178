"""Runs a Python program in a way: run.py plain|thread|fork PROGRAM."""

import os
import runpy
import sys
import threading

way, path = sys.argv[1:3]
sys.argv = [path, *sys.argv[3:]]
if way == "fork":
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.exit(status if status >= 0 else 128 - status)
if way == "thread":
    thread = threading.Thread(target=runpy.run_path, args=(path,), kwargs={"run_name": "__main__"})
    thread.start()
    thread.join()
else:
    runpy.run_path(path, run_name="__main__")
