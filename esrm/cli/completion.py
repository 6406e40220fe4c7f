"""``esrm completion``: the script that lets a shell complete our commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from esrm.cli.options import Asked, common


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common(vm=False, formats=False, store=False)
@click.pass_context
def command(ctx: click.Context, asked: Asked, shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, and the names of VMs, devices and spaces.

    \b
    eval "$(esrm completion bash)"       # in ~/.bashrc
    eval "$(esrm completion zsh)"        # in ~/.zshrc
    esrm completion fish > ~/.config/fish/completions/esrm.fish
    """
    kind = get_completion_class(shell)
    assert kind, f"click completes {shell}"
    click.echo(kind(ctx.find_root().command, {}, "esrm", "_ESRM_COMPLETE").source())
