"""Write docs/cli.md from the commands' own help: python docs/commands.py. A test says when that is due."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from snapvol.cli.program import program

FILE = Path(__file__).with_name("cli.md")
WIDTH = 100
HEAD = """# Commands

`snapvol COMMAND --help` prints what stands here. Names are checked before anything is done; an unknown command, option
or key is told the nearest one.

- **For programs:** every listing has `--json`: one array with an object a line, sizes in bytes, times in ISO 8601 with
  their zone. `-q` prints names only.
- **For people:** a table on a terminal, aligned columns elsewhere; sizes in binary units, times relative. Progress,
  warnings and errors go to standard error, an error is one line: what failed, and what to do.
- **Long work** (backup, restore, verify) is waited for, with a progress bar on a terminal and a line every few seconds
  elsewhere. `--detach` prints the job's ID instead. Ctrl-C cancels the job.
- **What deletes or overwrites** has `--dry-run`.
- **Without a daemon** work `repo …`, `backups`, `verify`, `forget`, `files`, `cat` and `restore --to`, with a
  configured repository, or with any: `--repository URL --password-file FILE`.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong usage: nothing was tried |
| 3 | not found |
| 4 | refused: in use, protected, held, full, the name is taken, or data would be lost |
| 5 | the daemon, the storage or the repository does not answer |
"""


def text() -> str:
    """Return what docs/cli.md has to be."""
    root = program.make_context("snapvol", [], resilient_parsing=True, terminal_width=WIDTH)
    return "\n".join([HEAD, *_sections(program, root, 2)])


def _sections(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    yield f"{'#' * level} {context.command_path}\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            below = click.Context(inner, parent=context, info_name=name, terminal_width=WIDTH)
            yield from _sections(inner, below, min(level + 1, 4))


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
