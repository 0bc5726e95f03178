"""Files by Python's own means: open, pathlib, os, configparser, json, csv, mmap, shutil, zipfile."""

import configparser
import csv
import hashlib
import json
import mmap
import os
import pathlib
import shutil
import stat
import tempfile


def attempt(what, call):
    try:
        print(what, call())
    except Exception as error:
        print(what, type(error).__name__, getattr(error, "errno", ""), getattr(error, "filename", ""))


config = configparser.ConfigParser()
print(config.read(["/app/config/orders.ini", "/app/config/missing.ini"]))
print({section: dict(config[section]) for section in config.sections()})
print(json.load(open("/app/config/features.json")))
rows = list(csv.reader(open("/data/lines.csv")))
print(len(rows), rows[3], rows[-1])
with open("/data/large.bin", "rb") as file:
    print(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())
    file.seek(1_000_000)
    print(file.read(8), os.pread(file.fileno(), 4, 2_000_000))
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        print(len(memory), memory[2_999_990:], memory.find(b"\x00\x00\x10\x00"))
path = pathlib.Path("/data/hello.txt")
print(path.read_text(), path.exists(), path.is_file(), path.is_dir(), path.stat().st_mtime_ns, path.stat().st_size)
print(path.samefile("/data/hard.txt"), path.samefile("/data/links/relative"), path.samefile("/data/empty"))
print(pathlib.Path("/data/links/to-link").resolve(), pathlib.Path("/data/links/relative").readlink())
print(pathlib.Path("/data/links/dangling").exists(), pathlib.Path("/data/links/dangling").is_symlink())
print(sorted(p.name for p in pathlib.Path("/data").glob("*.txt")), len(list(pathlib.Path("/data").rglob("*"))))
print(os.listdir("/data/bare"), sorted(os.listdir("/data"))[:4], sorted(os.listdir(b"/data/names"))[-3:])
with os.scandir("/data") as entries:
    for entry in sorted(entries, key=lambda entry: entry.name):
        follow = entry.stat(follow_symlinks=False)
        print(entry.name, entry.is_dir(), entry.is_symlink(), oct(follow.st_mode), follow.st_ino == entry.inode())
for folder, folders, files in sorted(os.walk("/data/deep")):
    print(folder, sorted(folders), sorted(files))
print(os.path.realpath("/data/links/over-root"), os.path.exists("/data/missing"), os.path.getsize("/data/kilobyte.bin"))
print(os.access("/data/hello.txt", os.R_OK), os.access("/data/permissions/file-0000", os.R_OK))
print(stat.filemode(os.lstat("/data/links/relative").st_mode), os.stat("/data/old.txt").st_mtime_ns)
attempt("missing", lambda: open("/data/missing"))
attempt("directory", lambda: open("/data"))
attempt("forbidden", lambda: open("/data/permissions/file-0000"))
attempt("loop", lambda: os.stat("/data/links/loop"))
attempt("long", lambda: open("/data/" + "n" * 300))
attempt("below", lambda: open("/data/hello.txt/x"))
attempt("list a file", lambda: os.listdir("/data/hello.txt"))
attempt("list missing", lambda: os.listdir("/data/missing"))
attempt("nul", lambda: open("/data/\0"))
attempt("readlink", lambda: os.readlink("/data/hello.txt"))
with tempfile.TemporaryDirectory() as folder:
    print(shutil.copy2("/data/kilobyte.bin", folder).endswith("kilobyte.bin"), os.listdir(folder))
    print(os.stat(folder + "/kilobyte.bin").st_mtime_ns, os.stat(folder + "/kilobyte.bin").st_size)
    shutil.copytree("/data/deep", folder + "/deep")
    print(sum(len(files) for _, _, files in os.walk(folder)))
    shutil.copyfile("/data/large.bin", folder + "/large")
    print(os.path.getsize(folder + "/large"))
descriptor = os.open("/data", os.O_RDONLY | os.O_DIRECTORY)
print(os.stat("hello.txt", dir_fd=descriptor).st_size, sorted(os.listdir(descriptor))[:2])
print(os.readlink("links/relative", dir_fd=descriptor))
print(os.read(os.open("hello.txt", os.O_RDONLY, dir_fd=descriptor), 5))
os.chdir("/data/hundred")
print(os.getcwd(), open("012.txt").readline(), os.path.abspath("../x"), os.path.realpath("../links/relative"))
print(os.statvfs("/data").f_namemax)
