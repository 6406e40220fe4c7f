"""What holds for every command: how it is found, asked, refused and completed, and what it does not load."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import click
import pytest
from cli_story import Ask, begin

from esrm import cli
from esrm.cli.output import PAGE, paint, printable, rows
from esrm.manager import ResourceManager
from esrm.opening import open_store

READING = [
    ["log"],
    ["show"],
    ["timeline", "net0"],
    ["tail"],
    ["vms"],
    ["map", "--free"],
    ["tree"],
    ["diff", "0", "@"],
    ["blame", "mmio", "0xc0002000"],
    ["bisect", "--refused"],
    ["stats"],
    ["verify"],
    ["doctor", "--no-write"],
    ["export"],
    ["page", "-o", "-"],
]
SIGNING = ["keygen", "checkpoint", "prove", "cosign"]  # tests/trust/test_proof_commands.py says the same of these
COMMANDS = [name for section in cli.SECTIONS.values() for name in section]


# -- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(ask: Ask, name: str) -> None:
    """The listing, which imports no command, has the first line of each command's own help."""
    answer = ask(name, "--help")
    assert answer.code == 0
    assert f"\n\n  {cli._HELP[name]}\n" in answer.out
    assert f"  {name} " in ask("--help").out


def test_the_help_says_which_commands_exit_with_1(ask: Ask) -> None:
    """Those that ask whether, and no other: a log in which nothing matches is well."""
    told = ask("--help").out
    assert "1  diff: a difference" in told
    assert "doctor --adopt: no" in told
    assert "130  interrupted" in told
    assert ask("diff", "0", "@").code == ask("blame", "pio", "0").code == ask("bisect", "--held", "pio", "0").code == 1
    assert ask("log", "--actor", "nobody") == (0, "", "")


def test_no_command_is_an_error_that_helps(ask: Ask) -> None:
    """Alone it prints the help, and exits as after any mistake."""
    answer = ask()
    assert answer.code == 2
    assert "The layout:" in answer.err


def test_a_misspelt_command_is_guessed(ask: Ask) -> None:
    """From the table, without importing anything."""
    answer = ask("bleme")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "esrm: No such command 'bleme'. Did you mean 'blame'?\nTry 'esrm --help'.\n"


def test_version(ask: Ask) -> None:
    """The version, and nothing else."""
    assert ask("--version").out == "esrm 0.1.0\n"


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["log", "--vm", "web-2"], "no VM 'web-2' in this store; did you mean web-1?"),
        (["tail", "--vm", "nobody"], "no VM 'nobody' in this store; there is web-1"),
        (["verify", "--vm", "nobody"], "no VM 'nobody' in this store; there is web-1"),
        (["export", "--vm", "nobody"], "no VM 'nobody' in this store; there is web-1"),
        (["show", "25"], "web-1 has revisions 0-24; there is no 25"),
        (["show", "@~25"], "web-1 has revisions 0-24; there is no @~25"),
        (["show", "@~-1"], "'@~-1' is no revision"),
        (["show", "HEAD"], "'HEAD' is no revision"),
        (["show", "@{yesterday}"], "'yesterday' is no time"),
        (["show", "@{2026-11-22T06:59}"], "web-1 had not begun at"),
        (["show", "01a2020e-4f70-7000-b5f7-36cb86e6c618"], "web-1 has no record 01a2020e"),
        (["show", "9" * 5000], "is no revision"),
        (["timeline", "net1"], "web-1 never had a device 'net1'; did you mean net0?"),
        (["map", "--space", "mmioo"], "no space 'mmioo'; did you mean mmio?"),
        (["blame", "irq", "5"], "no space 'irq'; did you mean msi_irq or legacy_irq?"),
        (["blame", "mmio", "somewhere"], "'somewhere' is no address"),
        (["blame", "pio", "0x10000"], "0x10000 is outside pio, which ends at 0xffff"),
        (["blame", "mac", "02:00:00:00:00"], "is not an Ethernet address"),
        (["blame", "mmio"], "Missing argument 'ADDRESS'"),
        (["log", "--type", "Nonsense"], "'Nonsense' is not one of 'VmCreated'"),
        (["log", "-n", "-1"], "-1 is not in the range"),
        (["bisect"], "nothing to look for"),
        (["bisect", "--phase", "created"], "--phase needs a --device"),
        (["bisect", "--refused", "--held", "mmio", "1"], "--refused goes with --device only"),
        (["bisect", "--free-below", "mmio", "few"], "'few' is no number"),
        (["bisect", "--free-below", "mmio", "0"], "nothing of mmio can be below 0x0"),
        (["completion"], "Choose from: bash, zsh, fish"),
        (["log", "--colour"], "No such option '--colour'"),
    ],
)
def test_what_was_asked_wrongly_exits_with_2(ask: Ask, arguments: list[str], said: str) -> None:
    """One line on stderr that says what to ask instead, nothing on stdout, no traceback."""
    answer = ask(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("esrm: ")
    assert said in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nowhere.db", "does not exist"),
        ("sqlite:nowhere.db", "does not exist"),
        (".", "is a directory"),
        ("memory:", "'memory:' names no store that outlives its process; sqlite:PATH does"),
        ("postgresql://host/db", "names no store"),
        ("notes.txt", "not an SQLite database"),
        ("empty.db", "is empty"),
    ],
)
def test_a_store_that_cannot_be_read_exits_with_3(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    """Each with a sentence; and none is created by looking."""
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("buy milk\n" * 100)
    Path("empty.db").touch()
    answer = ask("log", "--store", url)
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.startswith("esrm: ")
    assert said in answer.err
    assert not Path("nowhere.db").exists()


def test_a_vm_must_be_named_where_there_are_several(ask: Ask, tmp_path: Path) -> None:
    """The message lists them; naming one, on either side of the command or in the environment, is enough."""
    path = tmp_path / "two.db"
    anyio.run(begin, path, "a")
    anyio.run(begin, path, "b")
    answer = ask("--store", path, "log")
    assert answer.code == 2
    assert "has 2 VMs; choose one with --vm: a, b" in answer.err
    assert ask("--store", path, "--vm", "a", "tree").out.startswith("a@0")
    assert ask("--store", path, "tree", "--vm", "b").out.startswith("b@0")
    assert len(ask("--store", path, "tail").out.splitlines()) == 2


def test_options_come_from_the_line_before_the_environment(
    ask: Ask, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's own option, then the group's, then ESRM_*; so it is for the form of an answer, too."""
    other = tmp_path / "other.db"
    anyio.run(begin, other, "other")
    assert ask("tree").out.startswith("web-1@24"), "ESRM_STORE, a bare path"
    assert ask("--store", f"sqlite:{other}", "tree").out.startswith("other@0")
    assert ask("--store", str(story), "tree", "--store", str(other)).out.startswith("other@0")
    monkeypatch.setenv("ESRM_VM", "nobody")
    assert ask("tree").code == 2
    assert ask("--vm", "web-1", "tree").code == 0
    monkeypatch.setenv("ESRM_LOG_LIMIT", "1")
    monkeypatch.setenv("ESRM_LOG_JSON", "1")
    assert len(json.loads(ask("log", "--vm", "web-1").out)) == 1
    monkeypatch.setenv("ESRM_LOG_JSONL", "1")
    assert ask("log", "--vm", "web-1", "--json").out.startswith("[")
    monkeypatch.setenv("ESRM_LOG_VM", "web-1")
    assert json.loads(ask("log").out)["vm"] == "web-1"
    assert "'nothing'" in ask("--vm", "nothing", "log").err


def walk(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Context, click.Option]]:
    """Every option of a command and of those within it."""
    yield from ((ctx, option) for option in command.params if isinstance(option, click.Option))
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner
            yield from walk(inner, click.Context(inner, parent=ctx, info_name=name))


def test_every_option_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the name that anybody would guess: the command's, and the option's as it is typed."""
    ctx = click.Context(cli.cli, info_name="esrm", auto_envvar_prefix="ESRM")
    options = list(walk(cli.cli, ctx))
    assert len(options) > 60
    for ctx, option in options:
        words = *ctx.command_path.split(), max(option.opts, key=len).removeprefix("--")
        monkeypatch.setenv(variable := "_".join(words).upper().replace("-", "_"), "1")
        assert option.resolve_envvar_value(ctx) == "1", variable


@pytest.mark.parametrize("command", [["vms"], ["doctor"], ["demo"], ["completion", "bash"]])
def test_a_vm_is_not_passed_over(ask: Ask, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """What is not about one VM refuses to be asked about one; a variable is for the other commands."""
    answer = ask("--vm", "nobody", *command)
    assert (answer.code, answer.out) == (2, "")
    assert f"esrm {command[0]} is not about one VM: leave out --vm" in answer.err
    monkeypatch.setenv("ESRM_VM", "nobody")
    assert ask("vms").code == 0


def test_a_mistake_in_a_subgroup_names_it(ask: Ask) -> None:
    """The hint is the whole command, as it would be typed."""
    assert ask("import", "windows").err.endswith("Try 'esrm import --help'.\n")


# -- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("net0", "net0"),
        ("größe 网卡", "größe 网卡"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\rc", r"a\nb\rc"),
        ("\u202eevil", r"\u202eevil"),
        ("\x9b31m", r"\x9b31m"),
        ("\ud800", r"\ud800"),
    ],
)
def test_nothing_moves_the_cursor(raw: str, safe: str) -> None:
    """Whatever is not printable is written out; what is, stays as it is."""
    assert printable(raw) == safe
    assert click.unstyle(paint(raw, fg="red")) == safe


def test_columns_are_aligned_across_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """A column never becomes narrower, colours take no room, and no line ends in blanks."""
    rows([["a", paint("bb", fg="red"), "c"]] * PAGE + [["aaaa", "b", ""], ["a", "b", "c"]], right=[0])
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], *lines[-2:]] == ["a  bb  c", "aaaa  b", "   a  b   c"]


def on_a_terminal(story: Path, *arguments: str, **environment: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "ESRM_STORE": str(story), "TERM": "xterm", **environment}
    subprocess.run([sys.executable, "-m", "esrm", *arguments], stdout=theirs, env=variables, check=True)
    os.close(theirs)
    text = b""
    try:
        while chunk := os.read(ours, 65536):
            text += chunk
    except OSError:
        pass  # Linux says so when the other end is closed and all is read
    os.close(ours)
    return text.decode().replace("\r\n", "\n")


def test_colour_is_for_terminals(ask: Ask, story: Path) -> None:
    """On a terminal there is colour, unless NO_COLOR is set; JSON never has any; the words are the same."""
    plain = ask("tree").out
    assert "\x1b" not in plain
    coloured = on_a_terminal(story, "tree")
    assert "\x1b[" in coloured
    assert click.unstyle(coloured) == plain
    assert on_a_terminal(story, "tree", NO_COLOR="1") == plain
    assert on_a_terminal(story, "log", "--json") == ask("log", "--json").out


# -- processes -------------------------------------------------------------------------------------------------------


def test_reading_loads_no_event_loop(story: Path) -> None:
    """No reading command imports asyncio, trio or anyio, and the help imports no command."""
    script = """if True:
        import json, sys
        from esrm import cli
        found = {}
        cli.run(["--help"])
        found["--help"] = [name for name in sys.modules if name.startswith("esrm.cli.")]
        for arguments in json.loads(sys.argv[1]):
            cli.run(arguments)
            found[arguments[0]] = [name for name in ("asyncio", "trio", "anyio") if name in sys.modules]
        print(json.dumps(found), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(READING)],
        capture_output=True, text=True, check=True, env={**os.environ, "ESRM_STORE": str(story)},
    )  # fmt: skip
    found = json.loads(done.stderr)
    assert found.pop("--help") == ["esrm.cli.output", "esrm.cli.options"]
    assert found == {arguments[0]: [] for arguments in READING}
    assert {arguments[0] for arguments in READING} == set(COMMANDS) - {"import", "demo", "completion", *SIGNING}


def test_a_closed_pipe_ends_it_without_a_word(story: Path) -> None:
    """As ``esrm log | head -1`` may: no traceback, no message."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "esrm", "--store", str(story), "log"],
            stdout=nobody, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_an_output_that_is_full(story: Path) -> None:
    """A disk without room is said in one line, not in a traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "esrm", "--store", str(story), "log"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "esrm: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("command", [["export"], ["page", "-o", "-"]])
def test_an_output_that_is_closed(story: Path, command: list[str]) -> None:
    """Nowhere to write to is said in one line, too, and nothing counts as written."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "esrm", "--store", str(story), *command],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "esrm: [Errno 9] Bad file descriptor: 'stdout'\n")


@pytest.mark.parametrize("command", [["verify"], ["export"]])
def test_nobody_to_tell_how_far_it_is(story: Path, command: list[str]) -> None:
    """With stderr closed, as a daemon's may be, what is slow does its work and counts for nobody."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "esrm", "--store", str(story), *command],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 1


def test_an_output_that_does_not_know_the_letters(tmp_path: Path) -> None:
    """What cannot be said there is escaped; it is no error."""
    path = tmp_path / "vm.db"
    anyio.run(begin, path, "größe 网卡")
    done = subprocess.run(
        [sys.executable, "-m", "esrm", "--store", str(path), "vms"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert "größe \\u7f51\\u5361 ".encode("latin-1") in done.stdout


# -- completion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(ask: Ask, shell: str) -> None:
    """One for each shell that click knows."""
    answer = ask("completion", shell)
    assert answer.code == 0
    assert "_ESRM_COMPLETE" in answer.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("esrm t", ["timeline", "tail", "tree"]),
        ("esrm timeline n", ["net0", "nvme0"]),
        ("esrm log --device b", ["bridge0", "big0"]),
        ("esrm map --space m", ["mmio", "mem", "msi_irq", "mac"]),
        ("esrm blame kvm", ["kvm_mem_slot"]),
        ("esrm --vm w", ["web-1"]),
        ("esrm log --vm w", ["web-1"]),
        ("esrm --store nowhere.db log --vm w", []),
        ("esrm --vm nobody timeline n", []),
        ("esrm bisect --phase un", ["unplugging"]),
    ],
)
def test_names_are_completed(story: Path, words: str, expected: list[str]) -> None:
    """Commands from the table, names from the store; and silence where the store has a problem."""
    assert completed(story, words) == expected


def test_no_name_is_completed_that_a_shell_would_run(tmp_path: Path) -> None:
    """bash puts on the line what it is told, and Enter runs it: what needs a quote is left to be typed."""
    path = tmp_path / "vm.db"
    anyio.run(devices, path, ["net0", "$(touch${IFS}x)", "`x`", "net 0", "net0;x", "net*", "~root", "nët0"])
    assert completed(path, "esrm timeline ") == ["net0"]


async def devices(path: Path, names: list[str]) -> None:
    """A VM that has them."""
    async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm="a", platform="x86_64") as vm:
        for name in names:
            await vm.create(name)


def completed(store: Path, words: str) -> list[str]:
    """What bash is told to offer for the last word."""
    environment = {
        **os.environ,
        "ESRM_STORE": str(store),
        "_ESRM_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run([sys.executable, "-m", "esrm"], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]
