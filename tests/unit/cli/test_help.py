"""Help that teaches: every command has a summary, examples that parse, exit codes, and a place in the manual."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from snapvol.cli.command import Command, Group
from snapvol.cli.program import program

ROOT = Path(__file__).parents[3]


def _all(group: Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command, str]]:
    for name, entry in group.entries.items():
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield (*path, name), command, entry.summary
        if isinstance(command, Group):
            yield from _all(command, (*path, name))


COMMANDS = list(_all(program))
EXAMPLES = [
    (" ".join(path), line)
    for path, command, _ in [((), program, ""), *COMMANDS]
    for line in getattr(command, "examples", ())
]


@pytest.mark.parametrize(("path", "command", "summary"), COMMANDS, ids=[" ".join(path) for path, _, _ in COMMANDS])
def test_every_command_explains_itself(path: tuple[str, ...], command: click.Command, summary: str) -> None:
    assert isinstance(command, Command | Group)
    help = command.help or ""
    assert help.split("\n\n")[0].replace("\n", " ") == summary, "the list of commands and the help differ"
    assert summary.endswith(".")
    assert command.examples
    assert all(" ".join(["snapvol", *path]) in line for line in command.examples[:1])
    root = program.make_context("snapvol", [], resilient_parsing=True)
    text = command.get_help(click.Context(command, parent=root, info_name=" ".join(path), terminal_width=100))
    assert "Examples:" in text
    assert "Exit codes:\n  0 " in text
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.opts} has no help"


def _invocations(line: str) -> Iterator[list[str]]:
    """The calls of snapvol in a line of shell."""
    bare = re.sub(r"\s+#.*", "", line)
    for call in re.findall(r"snapvol ((?:'[^']*'|[^;|<>()'])*)", bare):
        yield shlex.split(call)


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_every_example_can_be_typed(name: str, line: str) -> None:
    calls = list(_invocations(line))
    assert calls
    for words in calls:
        context: click.Context = program.make_context("snapvol", list(words))
        arguments = [*context._protected_args, *context.args]
        while isinstance(context.command, Group):
            _, command, arguments = context.command.resolve_command(context, arguments)
            assert command is not None
            context = command.make_context(command.name, arguments, parent=context)
            arguments = [*context._protected_args, *context.args]


def test_the_manual_has_every_command_as_its_help_says() -> None:
    text = runpy.run_path(str(ROOT / "docs/commands.py"))["text"]()
    manual = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    # Compared without layout, which differs a little between versions of click.
    assert manual.split() == text.split(), "python docs/commands.py writes it anew"
    for path, _, _ in COMMANDS:
        assert f"# snapvol {' '.join(path)}\n" in manual


def test_what_comes_later_is_not_offered() -> None:
    names = {path for path, _, _ in COMMANDS}
    assert not names & {("policy",), ("policy", "ls"), ("policy", "run")}


def test_T42_no_option_takes_a_secret() -> None:
    for path, command, _ in COMMANDS:
        for parameter in command.params:
            secret = [opt for opt in parameter.opts if re.search(r"pass|secret|key", opt)]
            if secret and isinstance(parameter, click.Option):
                assert all(opt.endswith("-file") for opt in secret), (path, secret)
