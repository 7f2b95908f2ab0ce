"""Shell completion."""

from __future__ import annotations

import click

from snapvol.cli.command import command

SHELLS = ["bash", "fish", "zsh"]


@command(
    "completion",
    "snapvol completion bash > /etc/bash_completion.d/snapvol",
    "source <(snapvol completion zsh)         # in ~/.zshrc",
    "snapvol completion fish > ~/.config/fish/completions/snapvol.fish",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes commands and names in a shell.

    Names of volumes, snapshots and jobs are asked of the daemon; one that does not answer offers none.
    """
    from click.shell_completion import ShellComplete, get_completion_class

    from snapvol.cli.program import program

    kind = get_completion_class(shell)
    assert kind is not None
    # The class's own source() would first run the shell to ask for its version.
    print(ShellComplete.source(kind(program, {}, "snapvol", "_SNAPVOL_COMPLETE")))
