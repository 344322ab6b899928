"""``promptvit list``: what there is."""

import json
from enum import Enum
from typing import Annotated

import typer


class What(str, Enum):
    """Kinds of things to list."""

    methods = "methods"
    backbones = "backbones"
    datasets = "datasets"
    recipes = "recipes"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("list")(show)


def show(
    what: Annotated[What, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Names of methods, backbones, data sets or recipes.

    Example: `promptvit list methods`
    """
    import promptvit
    from promptvit.experiments.spec import list_recipes

    names = list_recipes() if what is What.recipes else getattr(promptvit, f"list_{what.value}")()
    print(json.dumps(names) if as_json else "\n".join(names))
