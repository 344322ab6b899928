"""What the service answers, for its OpenAPI document."""

from typing import Any

from pydantic import BaseModel, Field


class Task(BaseModel):
    """One task of the bank."""

    name: str
    num_classes: int


class Tasks(BaseModel):
    """All tasks, by name, on their one backbone."""

    backbone: str
    tasks: list[Task]


class Scored(BaseModel):
    """A class and its probability, in 0..1."""

    class_: str = Field(alias="class")
    probability: float


class Prediction(BaseModel):
    """The most probable classes of one image, the best first."""

    top: list[Scored]


class Predictions(BaseModel):
    """One prediction for each image, in the order of the request."""

    task: str
    predictions: list[Prediction]


class AttentionMap(BaseModel):
    """Where the model looked in one image.

    Attributes:
        weights: a share of the readout's attention for each patch, by rows; what is missing to 1 went to prompts and prefix tokens.
        box: left, top, right and bottom of what the model saw, in 0..1 of the upright image.
    """

    weights: list[list[float]]
    box: tuple[float, float, float, float]


class AttentionMaps(BaseModel):
    """One map for each image. ``asked_by``: whose attention it is, in the last block."""

    task: str
    asked_by: str
    maps: list[AttentionMap]


class Health(BaseModel):
    """The service answers."""

    status: str
    tasks: int


class Problem(BaseModel):
    """One line that says what was wrong and what is accepted."""

    detail: str


_BINARY = {"type": "string", "format": "binary"}
IMAGES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image as the raw body, or one or more files of a form; the names of its fields do not matter.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": {"type": "array", "items": _BINARY, "minItems": 1}},
                }
            },
            **{kind: {"schema": _BINARY} for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")},
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": what}
    for status, what in {
        400: "A form that cannot be read, or without files",
        404: "No such task",
        408: "The request did not arrive in time",
        413: "Too many bytes, images or pixels",
        415: "Neither a form nor an image",
        422: "Not an image, a damaged one, or a bad parameter",
        503: "Too much to do; Retry-After says when to come back",
    }.items()
}
