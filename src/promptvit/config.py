"""Settings checked once, with messages that name the option and the nearest valid one."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from promptvit.errors import shown, unknown

Config = TypeVar("Config", bound=BaseModel)


def checked(model: type[Config], values: dict[str, Any], kind: str = "option") -> Config:
    """Build ``model`` from ``values``.

    Raises:
        ValueError: no mapping, an unknown key (with the nearest valid names) or a bad value; one line.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{kind}: expected a mapping of names to values, got {shown(values)}")
    for key in values:
        if key not in model.model_fields:
            raise ValueError(unknown(kind, key, model.model_fields))
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "together"
        got = f"; got {shown(first['input'])}" if first["loc"] else ""
        raise ValueError(f"{kind} {where}: {first['msg'].removeprefix('Value error, ')}{got}") from None
