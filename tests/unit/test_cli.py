"""The command line as a whole: light, documented, with the exit codes it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from builders import capture, interval
from click.testing import CliRunner

from tracer import __version__
from tracer import cli as cli_module
from tracer.cli import COMMANDS, cli, main
from tracer.errors import Exit, NfsblameError
from tracer.report.sanitise import shell_word

ROOT = Path(__file__).parents[2]


def nfsblame(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracer", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    for flag in ("-h", "--help"):
        result = CliRunner().invoke(cli, [name, flag], prog_name="nfsblame")
        assert result.exit_code == Exit.DONE
    assert "Example" in result.stdout
    assert f"  nfsblame {name}" in result.stdout.partition("Example")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_mentions_every_command(name: str) -> None:
    assert f"nfsblame {name}" in (ROOT / "README.md").read_text()


def test_the_readme_says_the_exit_codes() -> None:
    readme = (ROOT / "README.md").read_text().lower()
    assert "exit code" in readme


def test_every_module_of_a_command_is_a_command() -> None:
    modules = {path.stem for path in (ROOT / "tracer/commands").glob("[!_]*.py")}
    assert modules == set(COMMANDS)


def test_help_names_every_command_and_every_exit_code() -> None:
    text = CliRunner().invoke(cli, ["--help"]).stdout
    for name, line in COMMANDS.items():
        assert name in text
        assert line.split(".")[0] in " ".join(text.split())
    for code in Exit:
        assert f" {int(code)} " in " ".join(text.partition("Exit codes")[2].split())


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], ["bcc", "pyarrow", "psutil", "rich", "tracer.commands.report"]),
        (["--version"], ["bcc", "pyarrow", "psutil", "rich", "tracer.commands.record"]),
        (["report", "--help"], ["bcc", "pyarrow", "tracer.commands.record", "tracer.compiler"]),
        (["record", "--help"], ["bcc", "pyarrow"]),
        (["doctor", "--help"], ["bcc", "pyarrow"]),
    ],
)
def test_what_help_does_not_need_is_not_imported(arguments: list[str], absent: list[str]) -> None:
    script = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "from tracer.cli import main\n"
        "main()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == Exit.DONE
    loaded = set(json.loads(run.stderr.splitlines()[-1]))
    assert "click" in loaded
    assert loaded.isdisjoint(absent)


def test_version() -> None:
    result = nfsblame("--version")
    assert (result.returncode, result.stdout) == (0, f"nfsblame, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["repot"], "No such command 'repot'"),
        (["--nonsense"], "No such option"),
        (["report"], "Missing argument"),
        (["report", "/no/such/capture"], "does not exist"),
        (["record", "--threshold", "soon"], "is no duration"),
        (["record", "--side", "left"], "'left' is not one of"),
    ],
)
def test_usage_errors_are_exit_code_2_and_no_traceback(arguments: list[str], said: str) -> None:
    result = nfsblame(*arguments)
    assert result.returncode == Exit.USAGE
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("kind", ["missing", "empty", "output"])
def test_paths_of_any_bytes_are_safe_to_print(tmp_path: Path, kind: str) -> None:
    hostile = f"{tmp_path}/a'\n\x1b[31m\x07\u202e" + b"\xe9".decode("utf-8", "surrogateescape")
    arguments = ["report", hostile]
    if kind == "empty":
        Path(hostile).mkdir()
    elif kind == "output":
        path = capture(tmp_path / "capture", [interval(1)])
        arguments = ["report", str(path), "-o", f"{hostile}/none"]
    result = nfsblame(*arguments)
    assert result.returncode == Exit.USAGE
    assert all(line.isprintable() for line in result.stderr.split("\n"))
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "text", ["/a/b", "a b'c", "a\nb", "\x1b[31m", "a\\x1b\n", "\xe9\n", "\udce9 x", "'\u202e\\'"]
)
def test_word_for_a_shell_is_printable_and_means_the_same(text: str) -> None:
    word = shell_word(text)
    assert word.isprintable()
    said = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert said.stdout == os.fsencode(text)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (NfsblameError("no BTF here; use another kernel", Exit.KERNEL), 4, "nfsblame: no BTF here"),
        (click.UsageError("no such thing"), 2, "no such thing"),
        # 1 would say that something was found.
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_end_in_their_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    said: str,
) -> None:
    @click.command()
    def failing() -> None:
        raise raised

    monkeypatch.setattr(cli_module, "cli", failing)
    monkeypatch.setattr(sys, "argv", ["nfsblame"])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("code", [0, 1, 5])
def test_a_commands_own_exit_code_is_the_process_s(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    @click.command()
    @click.pass_context
    def ending(ctx: click.Context) -> None:
        ctx.exit(code)

    monkeypatch.setattr(cli_module, "cli", ending)
    monkeypatch.setattr(sys, "argv", ["nfsblame"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
