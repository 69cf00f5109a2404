"""The commands, by name."""

from __future__ import annotations

import typer

from polyvisor.cli import (
    commands_access,
    commands_exec,
    commands_files,
    commands_fork,
    commands_images,
    commands_ingress,
    commands_instances,
    commands_logs,
    commands_power,
    commands_run,
    commands_schedules,
    commands_screens,
    commands_server,
    commands_snapshots,
    commands_ssh,
    commands_tasks,
    commands_templates,
    commands_things,
    commands_token,
    commands_volumes,
)

app = typer.Typer(
    name="polyvisor",
    help="Real virtual machines, by the word. Talks to the server that POLYVISOR_URL or POLYVISOR_DATA names.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (
    commands_run, commands_instances, commands_exec, commands_logs, commands_files, commands_power, commands_fork,
    commands_things, commands_server, commands_token, commands_access, commands_screens,
):  # fmt: skip
    module.register(app)
app.add_typer(commands_images.app, name="images")
app.add_typer(commands_volumes.app, name="volumes")
app.add_typer(commands_snapshots.app, name="snapshot")
app.add_typer(commands_schedules.app, name="schedule")
app.add_typer(commands_tasks.app, name="task")
app.add_typer(commands_templates.app, name="template")
app.add_typer(commands_ssh.app, name="ssh-key")
app.add_typer(commands_ingress.app, name="ingress")
