"""`python -m examples.shop --db sqlite|postgres|mariadb --mode at|xa|tcc|mixed`: the driver."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from examples.shop.ledger import Totals
from examples.shop.modes import WAYS
from examples.shop.places import DATABASES, MODES, databases_on, refusal
from examples.shop.scenarios import SCENARIOS, Scenario
from examples.shop.stage import Stage

console = Console(highlight=False)


@click.command()
@click.option("--db", type=click.Choice(DATABASES), default="sqlite", show_default=True, help="Where the services keep things.")
@click.option("--mode", type=click.Choice(MODES), default="at", show_default=True, help="How transactions are made.")
@click.option(
    "--only", multiple=True, type=click.Choice([s.name for s in SCENARIOS]), help="Only this scenario; may be repeated."
)
def main(db: str, mode: str, only: tuple[str, ...]) -> None:
    """Run the shop and break it; exit code 0 when goods and money are conserved, 1 when not."""
    if reason := refusal(db, mode):
        click.echo(reason, err=True)
        sys.exit(2)
    chosen = [s for s in SCENARIOS if not only or s.name in only]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="txcoord-shop-")))
        with console.status(f"starting a coordinator, three services and their databases on {db}, mode {mode} ..."):
            stage = Stage(stack.enter_context(databases_on(db, directory)), WAYS[mode], directory, say)
            stack.callback(stage.close)
            stage.open()
        failed = perform(stage, chosen)
    sys.exit(1 if failed else 0)


def say(line: str) -> None:
    """Show a step of a scenario."""
    console.print(f"  {line}")


def perform(stage: Stage, chosen: list[Scenario]) -> list[str]:
    """Run scenarios one after the other.

    Returns:
        What went wrong, empty: nothing.
    """
    start = stage.ledger.totals()
    failed: list[str] = []
    for number, scenario in enumerate(chosen, 1):
        console.print(f"\n[bold cyan]{number}. {scenario.title}[/]\n  [dim]{scenario.run.__doc__}[/]")
        failed += [f"{scenario.title}: {problem}" for problem in play(stage, scenario, start)]
    console.print()
    console.print(difference("The ledger: before and after", start, stage.ledger.totals(), everything=True))
    if failed:
        console.print(stage.last_words(), style="dim", markup=False, soft_wrap=True)
        for problem in failed:
            console.print(f"[red]✗ {problem}[/]", soft_wrap=True)
        console.print(f"[bold red]NOT conserved, or not as it must be: {len(failed)} of the above[/]")
    else:
        console.print(f"[bold green]Money and goods are conserved[/] after {len(chosen)} scenarios.")
    return failed


def play(stage: Stage, scenario: Scenario, start: Totals) -> list[str]:
    """Run one scenario and look at the books after it.

    Returns:
        What went wrong.
    """
    before, began = stage.ledger.totals(), time.monotonic()
    problems: list[str] = []
    try:
        try:
            scenario.run(stage)
        finally:
            stage.settled()
    except Exception as error:  # the scenarios after it are worth seeing all the same
        problems.append(f"{type(error).__name__}: {error}")
    problems += stage.broken_promises(start)
    console.print(difference("", before, stage.ledger.totals()))
    verdict = "[green]all or nothing, nothing left over[/]" if not problems else f"[red]{'; '.join(problems)}[/]"
    console.print(f"  {verdict} [dim]({time.monotonic() - began:.1f} s)[/]")
    return problems


def difference(title: str, before: Totals, after: Totals, everything: bool = False) -> Table:
    """The books before and after; only what has changed, or everything."""
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", padding=(0, 1))
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = [
        (f"{sku}: {what}", getattr(before.goods[sku], what), getattr(after.goods[sku], what))
        for sku in after.goods
        for what in ("free", "reserved", "sold")
    ]
    rows += [
        ("money at hand", before.at_hand, after.at_hand),
        ("money held", before.held, after.held),
        ("money paid", before.paid, after.paid),
    ]
    rows += [
        (f"orders {status}", before.orders.get(status, 0), after.orders.get(status, 0))
        for status in ("PENDING", "PLACED", "REJECTED")
    ]
    for name, old, new in rows:
        if everything or old != new:
            table.add_row(name, str(old), str(new), f"{new - old:+}" if new != old else "")
    if not table.row_count:
        table.add_row("nothing has changed", "", "", "")
    return table


if __name__ == "__main__":
    main()
