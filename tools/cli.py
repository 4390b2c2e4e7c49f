"""The command `clusterd`, by click. Commands parse, call one function, show its value and exit with a code of
clusterd/exits.py.

A command is loaded when it is called: `clusterd sync` must not pay for the daemon. Those that must answer at once do
without click (tools/at_once.py); tools/entry.py is the program."""

import functools
import gc
import importlib
import os
from collections.abc import Callable
from typing import Any

import click

from clusterd import __version__
from clusterd.exits import ExitCode
from clusterd.gate import closed_to_us, has_node, no_node, run_dir_closed_to_us
from clusterd.rundir import DEFAULT_ROOT
from tools import at_once
from tools.show import colours_asked_for, end_quietly, fail, failed

COMMANDS = {
    "init": ("tools.cli_init:init", "Make a node's directory tree and configuration."),
    "start": ("tools.cli_start:start", "Start the node; returns when it serves."),
    "stop": ("tools.cli_stop:stop", "Stop the node; returns when its last process is gone."),
    "restart": ("tools.cli_start:restart", "Stop the node if it runs, then start it."),
    "reload": ("tools.cli_config:reload", "Read the configuration again."),
    "status": ("tools.cli_status:status", "Show the node: processes, peers, manifest, syncs."),
    "adopt": ("tools.cli_adopt:adopt", "Run clusterd in place of a stock manager's cluster daemon."),
    "history": (
        "tools.cli_history:history",
        "Show what has happened: changes of files, syncs, registrations, logins, workers, problems.",
    ),
    "events": (
        "tools.cli_history:events",
        "Tell what happens, as JSON lines, until interrupted; also while the node is restarted.",
    ),
    "log": ("tools.cli_log:log", "Show the node's log: by level, node or text."),
    "log-level": (
        "tools.cli_log:log_level",
        "Show or change the log level of a running node, for a while: no reload, nothing is written to a file.",
    ),
    "doctor": ("tools.cli_doctor:doctor", "Find what is wrong with the node, and say what to do."),
    "top": ("tools.cli_top:top", "Watch the cluster: workers and problems first."),
    "completion": ("tools.cli_completion:completion", "Print the completion of a shell: bash, zsh or fish."),
    "support": ("tools.cli_support:support", "Write one archive with what helps in trouble; never a secret."),
    "check": ("tools.cli_status:check", "Check the node as a Nagios plugin: one line, exit code 0 to 3."),
    "check-config": ("tools.cli_config:check_config", "Check the configuration and list all mistakes."),
    "sync": ("tools.cli_sync:sync", "Look for changes now instead of at the next interval."),
    "diff": ("tools.cli_sync:diff", "Show what a sync would change on worker NODE."),
    "control": ("tools.cli_control:control", "Ask the cluster, on any of its nodes."),
    "forget": ("tools.cli_status:forget", "Forget worker NODE, which does not come back (on the master)."),
    "promote": ("tools.cli_role:promote", "Make this worker the master, because the old one is gone."),
    "demote": ("tools.cli_role:demote", "Make this former master a worker of the one that leads now."),
    "store": ("tools.cli_store:store", "The agent database that this node serves."),
    "ha": ("tools.cli_ha:ha", "High availability: what candidates hold of their master's state."),
    "api": ("tools.cli_api:api", "The REST API: turn it on, and say who may use it."),
}
"""Name of a command: its place, and its line in the help."""
FOR_EVERYBODY = ("init", "completion", "check", "version")
"""Commands that look into no node's directory, or say themselves that they may not."""
WRITERS = ("init", "start", "restart", "adopt", "store", "api", "promote", "demote", "support")
"""Commands that write more than what they show."""
READ_BOARD = ("status", "top", "doctor", "support", "log-level", "reload", "stop", "restart", "promote", "demote")
"""Commands that need what a running node tells of its processes, or change it: not for the group's other users."""
NEED_FILES = ("stop", "store", "api")
"""Commands that work on a node's files. The others say themselves what is missing."""


def _with_root(name: str, command: click.Command) -> click.Command:
    """Returns the same command with --root accepted behind its name as well, and asked at the gate before it runs."""
    if not any(parameter.name == "root_behind" for parameter in command.params):
        option = click.Option(
            ["--root", "root_behind"],
            expose_value=False,
            is_eager=True,
            hidden=True,
            callback=_set_root,
        )
        command.params.append(option)
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                _with_root(name, inner)
        elif command.callback is not None:
            command.callback = _behind_the_gate(name, command.callback)
    return command


def _behind_the_gate(name: str, callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def run(*arguments: Any, **options: Any) -> Any:
        root: str = click.get_current_context().obj
        closed = closed_to_us(root) if name not in FOR_EVERYBODY else None
        if closed is None and name in READ_BOARD:
            closed = run_dir_closed_to_us(root)
        if closed is not None:
            fail(closed)
        if name in NEED_FILES and not has_node(root):
            fail(no_node(root), ExitCode.NOT_RUNNING)
        try:
            return callback(*arguments, **options)
        except BrokenPipeError:
            raise  # nobody reads it: no failure of the command
        except OSError as problem:
            failed(problem, root, writes=name in WRITERS)
        except Exception as problem:
            from clusterd.errors import PlainFailure  # for those who fail

            if not isinstance(problem, PlainFailure):
                raise
            fail(str(problem))

    return run


def _set_root(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.obj = _absolute(value)


def _absolute(root: str) -> str:
    """An empty one comes from a variable that is not set: it does not mean the working directory."""
    if not root:
        raise click.UsageError("--root is empty")
    try:
        return os.path.abspath(root)
    except OSError:
        raise click.UsageError(f"--root {root} is relative, and the working directory is gone") from None


class LazyCommands(click.Group):
    """A group whose commands are imported when they are called; its help imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            own = super().get_command(ctx, cmd_name)
            return None if own is None else _with_root(cmd_name, own)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return _with_root(cmd_name, command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as problem:
            import difflib  # only for a word that is no command

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            if not near:
                raise
            raise click.UsageError(f"{problem.message} Did you mean {near[0]}?", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            end_quietly()
            ctx.exit(ExitCode.OK)  # click would end with 1, as if something had failed

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, line) for name, (_, line) in COMMANDS.items()]
        rows += [(name, command.get_short_help_str(100)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--root",
    envvar="CLUSTERD_ROOT",
    default=DEFAULT_ROOT,
    show_default=True,
    help="The node's directory (also: CLUSTERD_ROOT).",
)
@click.version_option(__version__, message="clusterd %(version)s")
@click.pass_context
def cluster(context: click.Context, root: str) -> None:
    """Start, stop and look at a node of a SIEM manager's cluster."""
    gc.enable()  # the command is loaded (see tools/entry.py); it may go on for long, or be the node's first process
    context.obj = _absolute(root)
    context.color = colours_asked_for()


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Show the version, build and environment of this command."""
    at_once.version("", as_json)


def main() -> None:
    """Runs any command. Every failure ends in one line and a code: click's usage errors with 64, others as at_once
    says."""
    at_once.end_with(_run)


def _run() -> object:
    try:
        return cluster.main(standalone_mode=False)
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.UsageError as problem:
        problem.show()
        return ExitCode.USAGE
    except click.ClickException as problem:
        problem.show()
        return ExitCode.FAILED


if __name__ == "__main__":
    main()
