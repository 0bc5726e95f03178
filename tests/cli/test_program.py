from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from mirror.cli import program
from mirror.cli.errors import EXIT_CANNOT_RUN, EXIT_NOT_FOUND, MirrorError

PATH = "/usr/local/bin:/usr/bin:/bin"
LS = os.path.realpath("/bin/ls")


def script(folder: Path, name: str, text: str, mode: int = 0o755) -> str:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def refusal(*command: str, search_path: str | None = PATH) -> MirrorError:
    with pytest.raises(MirrorError) as caught:
        program.find(command, search_path)
    assert "\n" not in caught.value.sentence
    return caught.value


def test_name_is_looked_up_in_path_and_stays_argv0() -> None:
    found = program.find(("ls", "-l"), PATH)
    assert found.argv == ("ls", "-l")
    assert found.path in ("/usr/bin/ls", "/bin/ls")
    assert found.files == (found.path,)


def test_name_with_slash_is_a_path() -> None:
    assert program.find((LS,), "").path == LS


def test_without_path_the_default_is_searched() -> None:
    assert program.find(("ls",), None).path in ("/bin/ls", "/usr/bin/ls")


def test_empty_element_of_path_is_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "here", "#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)
    assert program.find(("here",), "/nonexistent:").path == "./here"


def test_first_executable_in_path_wins_over_unexecutable(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    script(tmp_path / "a", "tool", "#!/bin/sh\n", 0o644)
    good = script(tmp_path / "b", "tool", "#!/bin/sh\n")
    assert program.find(("tool",), f"{tmp_path}/a:{tmp_path}/b").path == good


def test_not_found() -> None:
    error = refusal("no-such-program")
    assert error.exit_status == EXIT_NOT_FOUND
    assert "PATH" in error.sentence
    error = refusal("/no/such/program")
    assert error.exit_status == EXIT_NOT_FOUND
    assert "never taken from the target" in error.sentence
    assert refusal("").exit_status == EXIT_NOT_FOUND


def test_not_executable(tmp_path: Path) -> None:
    error = refusal(script(tmp_path, "plain", "echo\n", 0o644))
    assert error.exit_status == EXIT_CANNOT_RUN
    assert refusal(str(tmp_path)).exit_status == EXIT_CANNOT_RUN
    assert "directory, not a program; choose one in it" in refusal(str(tmp_path)).sentence


def test_script_is_judged_by_its_interpreter(tmp_path: Path) -> None:
    path = script(tmp_path, "hello", "#! /bin/sh -e\necho\n")
    found = program.find((path, "x"), PATH)
    assert found.path == path
    assert found.argv == (path, "x")
    assert found.files == (path, "/bin/sh")


def test_env_in_a_script_means_what_it_starts(tmp_path: Path) -> None:
    path = script(tmp_path, "hello", "#!/usr/bin/env -S A=b ls -l\n")
    assert os.path.realpath(program.find((path,), PATH).files[-1]) == LS


def test_script_of_a_script(tmp_path: Path) -> None:
    inner = script(tmp_path, "inner", "#!/bin/sh\n")
    outer = script(tmp_path, "outer", f"#!{inner}\n")
    assert program.find((outer,), PATH).files == (outer, inner, "/bin/sh")


def test_endless_interpreters(tmp_path: Path) -> None:
    path = tmp_path / "loop"
    assert refusal(script(tmp_path, "loop", f"#!{path}\n")).exit_status == EXIT_CANNOT_RUN


def test_bad_interpreter(tmp_path: Path) -> None:
    error = refusal(script(tmp_path, "dos", "#!/bin/sh\r\necho\r\n"))
    assert error.exit_status == EXIT_NOT_FOUND
    assert "dos2unix" in error.sentence
    assert "\r" not in error.sentence
    error = refusal(script(tmp_path, "lost", "#!/no/such/interpreter\necho\n"))
    assert error.exit_status == EXIT_NOT_FOUND
    assert "bad interpreter: /no/such/interpreter: No such file or directory" in error.sentence
    assert "install it" in error.sentence
    assert "interpreter" in refusal(script(tmp_path, "empty", "#!\n")).sentence


def test_text_without_shebang_goes_to_the_shell(tmp_path: Path) -> None:
    path = script(tmp_path, "old", "echo\n")
    found = program.find((path, "x"), PATH)
    assert (found.path, found.argv) == ("/bin/sh", ("/bin/sh", path, "x"))


def elf(machine: int = 62, kind: int = 2, segments: bytes = b"", count: int = 0) -> bytes:
    header = bytearray(64)
    header[:7] = b"\x7fELF" + bytes([kind, 1, 1])
    struct.pack_into("<HHI", header, 16, 2, machine, 1)
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, count)
    return bytes(header) + segments


def interpreted_by(linker: bytes, **fields: int) -> bytes:
    segment = struct.pack("<IIQQQQQQ", 3, 4, 64 + 56, 0, 0, len(linker) + 1, len(linker) + 1, 1)
    return elf(segments=segment + linker + b"\0", count=1, **fields)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (elf(), "statically"),
        (elf(machine=0xFFF), "64-bit"),
        (elf(kind=1), "64-bit"),
        (b"\x7fELF", "ELF"),
        (elf(count=3), "ELF"),
    ],
)
def test_elf_that_cannot_be_hooked(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "program"
    path.write_bytes(content)
    path.chmod(0o755)
    error = refusal(str(path))
    assert error.exit_status == EXIT_CANNOT_RUN
    assert word in error.sentence


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the made-up programs are x86-64's")
@pytest.mark.parametrize(("linker", "word"), [(b"/lib/ld-musl-x86_64.so.1", "musl"), (b"/no/such/ld.so", "lacks")])
def test_other_dynamic_linker(tmp_path: Path, linker: bytes, word: str) -> None:
    path = tmp_path / "program"
    path.write_bytes(interpreted_by(linker))
    path.chmod(0o755)
    assert word in refusal(str(path)).sentence


def test_real_static_program(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "main.c").write_text("int main(void) { return 0; }")
    built = subprocess.run([compiler, "-static", "-o", tmp_path / "static", tmp_path / "main.c"], capture_output=True)
    if built.returncode != 0:
        pytest.skip("no static libc")
    assert "statically" in refusal(str(tmp_path / "static")).sentence


def test_setuid_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "setuid"
    if os.getuid() == 0:
        shutil.copy(LS, path)
        os.chown(path, 12345, 12345)
        path.chmod(0o4755)
    else:  # only root can give a file away; su(1) is root's everywhere
        path.symlink_to(shutil.which("su") or "")
    error = refusal(str(path))
    assert error.exit_status == EXIT_CANNOT_RUN
    assert "setuid" in error.sentence
