from __future__ import annotations

from pathlib import Path

from mirror.cli.proxy.surroundings import look_around


def test_links_are_followed_and_kept(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    around = look_around(str(tmp_path / "link"), ["/bin/sh"], ["sh"], {})
    assert around.working_directories == (str(tmp_path / "link"), str(real))


def test_script_directory_of_an_interpreters_argument(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app").write_text("")
    around = look_around(str(tmp_path), ["/usr/bin/python3.11"], ["python3", "-u", "code/app", "--flag"], {})
    assert around.scripts == (str(tmp_path / "code"),)


def test_directory_of_what_a_debugger_starts(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "server").write_text("")
    around = look_around("/", ["/usr/bin/gdb"], ["gdb", "--args", str(tmp_path / "code" / "server"), "-v"], {})
    assert around.scripts == (str(tmp_path / "code"),)


def test_files_of_other_programs_are_no_scripts(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert look_around(str(tmp_path), ["/bin/cat"], ["cat", str(tmp_path / "data")], {}).scripts == ()


def test_script_itself_has_a_directory(tmp_path: Path) -> None:
    around = look_around("/", [str(tmp_path / "tool"), "/bin/sh"], ["tool"], {})
    assert str(tmp_path) in around.scripts


def test_variables_name_toolchains_and_the_search_path() -> None:
    variables = {"PYTHONPATH": "/a/b:relative::/c", "PATH": "/x/bin:", "TMPDIR": "/t", "HOME": "/h", "OTHER": "/o"}
    around = look_around("/w", ["/bin/cat"], ["cat"], variables)
    assert around.toolchains == ("/a/b", "/c")
    assert around.search_path == ("/x/bin",)
    assert around.temporary == ("/t",)
    assert around.home == "/h"
