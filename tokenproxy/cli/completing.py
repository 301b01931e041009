"""``completion``: click's scripts, printed."""

from __future__ import annotations

import click

from tokenproxy.cli.command import Call, command


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(call: Call, *, shell: str) -> None:
    """
    Print a completion script for your shell.

    \b
      eval "$(tokenproxy completion bash)"              in ~/.bashrc
      eval "$(tokenproxy completion zsh)"               in ~/.zshrc
      tokenproxy completion fish | source               in config.fish
    """  # noqa: D301 - \b is click's
    from click.shell_completion import ShellComplete, get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"{shell} has no completion in this click")
    root = click.get_current_context().find_root()
    complete = found(root.command, {}, root.info_name or "tokenproxy", "_TOKENPROXY_COMPLETE")
    # Not bash's own method: it runs bash to ask for its version, here where it may not be the bash that reads this.
    call.out.result(ShellComplete.source(complete))
