"""``promptvit serve``: the tasks of many runs over HTTP, with a page to try them."""

import re
from pathlib import Path
from typing import Annotated

import typer

Option, Argument = typer.Option, typer.Argument


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(serve)


def serve(
    runs: Annotated[list[str], Argument(metavar="RUN...", help="Run or adapter folders of one backbone; NAME=RUN names the task.")],
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0 lets other machines in. There is no login.")] = "127.0.0.1",
    port: Annotated[int, Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    max_latency_ms: Annotated[float, Option(help="Milliseconds an image waits for others to share its batch.")] = 5,
    max_batch: Annotated[int, Option(help="Images of a batch; 1 switches batching off.")] = 16,
    max_queue: Annotated[int, Option(help="Images that may wait; beyond it requests get 503.")] = 256,
    max_requests: Annotated[int, Option(help="Requests received or decoded at once; beyond it 503.")] = 64,
    max_images: Annotated[int, Option(help="Images of one request.")] = 32,
    max_body_mib: Annotated[float, Option(help="Size of one request in MiB.", min=0.001, max=2**20)] = 20,
    max_megapixels: Annotated[float, Option(help="Size of one image.", min=0.001, max=80)] = 40,
    timeout: Annotated[float, Option(help="Seconds to receive a request, and again to answer it.")] = 30,
    backbone: Annotated[str | None, Option(help="The backbone file, for adapters of local files.")] = None,
    arch: Annotated[str | None, Option(help="Its timm name, if the file cannot tell.")] = None,
) -> None:
    """Answer for many tasks on one backbone over HTTP, and show a page to try them.

    Example: `promptvit serve runs/demo/vpt-deep runs/demo/gapt beetles=runs/sweep/3f2a`
    """
    from promptvit.config import checked
    from promptvit.experiments.use import load_model
    from promptvit.serving import PromptBank
    from promptvit.serving.server import serve as answer
    from promptvit.serving.settings import ServiceSettings

    values = {
        "max_latency_ms": max_latency_ms, "max_batch": max_batch, "max_queue": max_queue, "max_requests": max_requests, "timeout": timeout,
        "max_images": max_images, "max_body": round(max_body_mib * 2**20), "max_pixels": round(max_megapixels * 1e6),
    }
    settings = checked(ServiceSettings, values, "serve:")
    named = [task_name(run) for run in runs]
    first = load_model(named[0][1], backbone=backbone, arch=arch)
    bank = PromptBank(first.backbone, preprocessing=first.preprocessing)
    for name, run in named:
        bank.add(name, run)
    answer(bank, settings, host, port, lambda address: print(f"serving {len(named)} tasks at {address}", flush=True))


def task_name(run: str) -> tuple[str, str]:
    """Name and folder of ``NAME=RUN``; without a name that of the run's folder.

    Raises:
        ValueError: a name that is no part of an address.
    """
    name, equals, folder = run.partition("=")
    if not equals or Path(run).exists():
        path = Path(run).resolve()
        name, folder = path.parent.name if path.name == "adapter" else path.name, run
    if not re.fullmatch(r"[\w][\w.-]{0,99}", name):
        raise ValueError(f"task: {name!r} is no name for an address; letters, digits, '.', '_' and '-' are, as in NAME={folder}")
    return name, folder
