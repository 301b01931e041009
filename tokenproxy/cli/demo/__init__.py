"""``demo``: the real proxy before a simulated provider, so that a newcomer sees it work with nothing at hand."""

from __future__ import annotations

import click

from tokenproxy.cli.command import Call, command, quiet_log


@command("demo")
@click.option("--once", is_flag=True, help="End after the story; exit code 1 if it did not go as promised.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the proxy; default: any free one.")
def demo(call: Call, *, once: bool, port: int) -> int:
    """
    See it work, with nothing at hand.

    A provider that rotates its tokens, an API, and the real proxy, all on this machine. Needs no account and no config, and leaves no file behind.
    """
    from tokenproxy.cli.demo.story import play

    quiet_log(verbose=call.verbose)
    return play(call.out, once=once, port=port)
