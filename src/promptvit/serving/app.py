"""The HTTP service: the tasks of one bank, asked over the network, and a page to try them."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

import torch

from promptvit.serving.bank import PromptBank
from promptvit.serving.batching import Batcher, Busy, Function
from promptvit.serving.looking import Look, Seen, look, seen
from promptvit.serving.settings import ServiceSettings

try:
    from fastapi import FastAPI, Query
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

    from promptvit.serving import schema
    from promptvit.serving.intake import decode, receive_files
    from promptvit.serving.metrics import Counted, Metrics
except ModuleNotFoundError as error:
    raise ImportError(f'serve: needs the package {error.name}; install it with: pip install "promptvit[serve]"') from None

DECODERS = 2  # threads; they compete with the model for the same cores
RETRY_SECONDS = "1"
_PAGE = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def create_app(bank: PromptBank, settings: ServiceSettings | None = None) -> FastAPI:
    """An ASGI application that answers for ``bank``; its worker thread lives as long as the application runs."""
    from promptvit import __version__

    service = Service(bank, settings or ServiceSettings())
    app = FastAPI(
        title="promptvit", version=__version__, summary="One frozen backbone, many tasks.", lifespan=service.running,
        docs_url=None, redoc_url=None,  # those pages load scripts from the internet
    )
    app.add_middleware(Counted, metrics=service.metrics)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(Exception, _internal_error)
    ask: dict[str, Any] = {"responses": schema.PROBLEMS, "openapi_extra": schema.IMAGES}
    app.post("/v1/tasks/{task}/predict", response_model=schema.Predictions, **ask)(service.predict)
    app.post("/v1/tasks/{task}/attention", response_model=schema.AttentionMaps, **ask)(service.attention)
    app.get("/v1/tasks", response_model=schema.Tasks)(service.tasks)
    app.get("/healthz", response_model=schema.Health)(service.health)
    app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})(service.measured)
    for name, kind in _PAGE.items():
        app.get("/" if name == "index.html" else f"/{name}", include_in_schema=False)(_file(name, kind))
    return app


class Service:
    """The endpoints. Bytes are decoded in one pool of threads, the backbone runs in the batcher's thread; the event loop does neither."""

    def __init__(self, bank: PromptBank, settings: ServiceSettings) -> None:
        self.bank, self.settings = bank, settings
        self.metrics = Metrics(waiting=lambda: self.batcher.waiting)
        self.receiving = 0

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Start the threads; at the end answer everything that was accepted."""
        limits = self.settings
        self.decoders = ThreadPoolExecutor(DECODERS, "promptvit-decode")
        self.batcher = Batcher(
            max_batch=limits.max_batch, max_latency=limits.max_latency_ms / 1000, capacity=limits.max_queue, observe=self.metrics.batch
        )
        yield
        await asyncio.to_thread(self.batcher.close)
        self.decoders.shutdown()

    async def predict(self, request: Request, task: str, top_k: Annotated[int, Query(ge=1, le=10_000)] = 5) -> JSONResponse:
        """The most probable classes of one or more images."""
        images = await self._images(request, task)
        answers = await self._answers(self._classified, task, images)
        classes = self.bank.classes(task)
        tops = [heapq.nlargest(top_k, zip(shares, classes, strict=True)) for shares in answers]
        rows = [{"top": [{"class": name, "probability": share} for share, name in top]} for top in tops]
        return JSONResponse({"task": task, "predictions": rows})

    async def attention(self, request: Request, task: str) -> JSONResponse:
        """Where the model looked: the attention of what its head reads, in the last block, over the patches of each image."""
        if not all(block.opened for block in self.bank.backbone.blocks()):
            raise HTTPException(422, f"attention: the blocks of {self.bank.backbone.name} are of a kind that cannot be looked into")
        images = await self._images(request, task)
        looks: list[Look] = await self._answers(self._looked, task, images)
        maps = [{"weights": found.weights.tolist(), "box": image.box} for found, image in zip(looks, images, strict=True)]
        return JSONResponse({"task": task, "asked_by": looks[0].asked_by, "maps": maps})

    async def tasks(self) -> JSONResponse:
        """All tasks, by name."""
        rows = [{"name": task, "num_classes": len(self.bank.classes(task))} for task in sorted(self.bank.tasks)]
        return JSONResponse({"backbone": self.bank.backbone.name, "tasks": rows})

    async def health(self) -> JSONResponse:
        """The service takes requests."""
        return JSONResponse({"status": "ok", "tasks": len(self.bank.tasks)})

    async def measured(self) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _images(self, request: Request, task: str) -> list[Seen]:
        """The images of a request for ``task``, decoded and preprocessed."""
        if task not in self.bank.tasks:
            raise HTTPException(404, f"unknown task {task[:100]!r}; GET /v1/tasks lists what there is")
        if self.receiving >= self.settings.max_requests:
            raise _busy("too many requests at once")
        self.receiving += 1
        try:
            files = await receive_files(request, self.settings)
            return await asyncio.get_running_loop().run_in_executor(self.decoders, self._prepared, files)
        finally:
            self.receiving -= 1

    async def _answers(self, function: Function, task: str, images: Sequence[Seen]) -> list[Any]:
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await self.batcher.submit(function, [(image.pixels, task) for image in images])
        except Busy:
            raise _busy(f"{self.settings.max_queue} images wait already") from None
        except TimeoutError:
            raise _busy(f"no answer within {self.settings.timeout:g} s") from None

    def _prepared(self, files: Sequence[bytes]) -> list[Seen]:
        names = [f"image {i}" for i in range(1, len(files) + 1)]
        images = (decode(content, name, self.settings) for content, name in zip(files, names, strict=True))
        return [seen(image, self.bank.preprocessing) for image in images]

    def _classified(self, pairs: Sequence[Any]) -> list[list[float]]:
        """Probabilities for each (pixels, task)."""
        images, tasks = zip(*pairs, strict=True)
        answers = [shares.tolist() for shares in self.bank.predict(torch.stack(images), tasks).probabilities]
        for task in tasks:
            self.metrics.images.labels(task).inc()
        return answers

    def _looked(self, pairs: Sequence[Any]) -> list[Look]:
        return [look(self.bank, pixels, task) for pixels, task in pairs]


def _busy(why: str) -> HTTPException:
    return HTTPException(503, f"{why}; try again later", {"Retry-After": RETRY_SECONDS})


def _file(name: str, kind: str) -> Any:
    content = resources.files(__package__).joinpath("page", name).read_bytes()

    async def file() -> Response:
        return Response(content, media_type=kind, headers=_PAGE_HEADERS)

    return file


async def _bad_parameter(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}; got {str(first['input'])[:100]!r}"}, 422)


async def _internal_error(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"detail": "internal error; the service's log says more"}, 500)
