"""How our commands look: help that ends in examples and exit codes, and errors that know the nearest word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from snapvol.errors import UnknownOption, nearest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MOST_NAMED = 10
"""How many commands an error lists where none is near."""

EXIT_CODES = "0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused, 5 daemon or storage unreachable."


class Command(click.Command):
    """A command with examples.

    Args:
        examples: lines as people type them; ``#`` starts a remark.
        exits: what its exit codes mean, where that is not the common meaning.
    """

    def __init__(self, *arguments: Any, examples: tuple[str, ...] = (), exits: str = "", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.examples = examples
        self.exits = exits

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the exit codes."""
        format_ending(formatter, self.examples, self.exits)


def format_ending(formatter: click.HelpFormatter, examples: tuple[str, ...], exits: str) -> None:
    """Write what every help text ends with."""
    if examples:
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")
    with formatter.section("Exit codes"):
        formatter.write_text(exits or EXIT_CODES)


Function = Callable[..., None]


def command(name: str, *examples: str, exits: str = "") -> Callable[[Function], Command]:
    """Make a command of a function; its docstring is the help, and the first line of that the summary."""
    return click.command(name, cls=Command, examples=examples, exits=exits)


class Entry(NamedTuple):
    """A command that is not imported yet: the module below ``snapvol.cli`` that has it, and its summary."""

    module: str
    summary: str


class Group(click.Group):
    """Commands in titled sections, imported when used.

    Args:
        sections: title → name → where the command is.
        examples: as for `Command`.
    """

    def __init__(
        self,
        *arguments: Any,
        sections: Mapping[str, Mapping[str, Entry]],
        examples: tuple[str, ...] = (),
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **{"no_args_is_help": True, **keywords})
        self.sections = sections
        self.examples = examples
        self.entries = {name: entry for section in sections.values() for name, entry in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help text."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module = import_module(f"snapvol.cli.{entry.module}")
        return next(
            found for found in vars(module).values() if isinstance(found, click.Command) and found.name == cmd_name
        )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names; an unknown one is told the nearest (T16)."""
        if args[0] not in self.entries and not ctx.resilient_parsing:
            hint = nearest(args[0], list(self.entries))
            if hint.startswith("valid") and len(self.entries) > MOST_NAMED:
                hint = f"see: {ctx.command_path} --help"
            raise UnknownOption(f"'{ctx.command_path}' has no command '{args[0]}'", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, without importing a command."""
        width = max(map(len, self.entries))
        for title, entries in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", entry.summary) for name, entry in entries.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the exit codes."""
        format_ending(formatter, self.examples, "")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name, without importing a command."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=entry.summary)
            for name, entry in self.entries.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]
