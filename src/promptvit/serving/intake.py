"""From a request's body to its images, within limits of bytes, images, pixels and time."""

import asyncio
from typing import Any

from PIL import Image
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from promptvit.data.images import BadImage, TooManyPixels, read_image
from promptvit.serving.settings import ServiceSettings

FORM, RAW = "multipart/form-data", "application/octet-stream"


async def receive_files(request: Request, limits: ServiceSettings) -> list[bytes]:
    """The files of a multipart form, or the raw body as one file.

    Raises:
        HTTPException: 400 a broken or empty form, 408 too slow, 413 too many bytes or files, 415 neither a form nor an image.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM and kind != RAW and not kind.startswith("image/"):
        raise HTTPException(415, f"content type {kind[:60]!r}: send {FORM} with one or more files, or one image as image/* or {RAW}")
    limited = Request(request.scope, _limited(request.receive, limits.max_body))
    try:
        async with asyncio.timeout(limits.timeout):
            return await _form_files(limited, limits.max_images) if kind == FORM else [await limited.body()]
    except TimeoutError:
        raise HTTPException(408, f"the request was not whole after {limits.timeout:g} s", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the client went away") from None


def decode(content: bytes, name: str, limits: ServiceSettings) -> Image.Image:
    """One file as an RGB image.

    Raises:
        HTTPException: 413 too many pixels, 422 no image, or a damaged one.
    """
    try:
        return read_image(content, name, limits.max_pixels)
    except TooManyPixels as error:
        raise HTTPException(413, str(error)) from None
    except BadImage as error:
        raise HTTPException(422, str(error)) from None


def _limited(receive: Receive, max_body: int) -> Receive:
    """``receive``, which stops after ``max_body`` bytes."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_body:
            raise HTTPException(413, f"the request is larger than {max_body:,} bytes")
        return message

    return limited


async def _form_files(request: Request, max_images: int) -> list[bytes]:
    parser = MultiPartParser(request.headers, request.stream(), max_files=max_images, max_fields=0)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(413 if error.message.startswith("Too many files") else 400, f"form: {error.message}") from None
    try:
        uploads: list[Any] = [upload for _, upload in form.multi_items()]
        if not uploads:
            raise HTTPException(400, "form: no file in it")
        return [await upload.read() for upload in uploads]
    finally:
        await form.close()
