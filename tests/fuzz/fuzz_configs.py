"""Settings, sweep files and recipes: values by their schemas, texts as an attacker would write them."""

from pathlib import Path
from random import Random
from typing import Any

import yaml
from hypothesis import strategies as st
from mutation import WORDS, altered, damaged, junk, nested
from watching import Case

from promptvit.experiments.plan import overridden
from promptvit.experiments.spec import Spec, list_recipes, read_spec
from promptvit.methods import method_config
from promptvit.training import TrainSettings, resolve
from promptvit.training.run import read_settings

SETTINGS = {"backbone": "mae-tiny", "method": "vpt-deep", "data": "digits", "num_prompts": 4, "lr": 0.1, "epochs": 3, "seed": 1}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def by_schema(schema: dict[str, Any], definitions: dict[str, Any] | None = None, depth: int = 3) -> st.SearchStrategy[Any]:
    """Values that fit a JSON schema of pydantic's, and now and then one that does not."""
    definitions = definitions or schema.get("$defs", {})

    def inner(part: dict[str, Any]) -> st.SearchStrategy[Any]:
        return by_schema(part, definitions, depth - 1)

    if "$ref" in schema:
        return inner(definitions[schema["$ref"].rsplit("/", 1)[-1]]) if depth > -3 else ANY
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(inner, schema["anyOf"]))
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        needed = {key: inner(part) for key, part in schema["properties"].items() if key in schema.get("required", ())}
        others = {key: inner(part) | ANY for key, part in schema["properties"].items() if key not in needed}
        return st.fixed_dictionaries(needed, optional=others)
    if kind == "object":
        more = schema.get("additionalProperties", True)
        return st.dictionaries(
            st.sampled_from(("linear", "vpt-deep", "lr", "digits", "x", "")), inner(more) if isinstance(more, dict) else ANY, max_size=3
        )
    if kind == "array":
        return st.lists(inner(schema.get("items") or {}), min_size=schema.get("minItems", 0), max_size=4)
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", schema.get("exclusiveMaximum"))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        "integer": st.integers(low, high),
        "number": st.floats(low, high, allow_nan=False),
        "boolean": st.booleans(),
        "null": st.none(),
        "string": st.text(max_size=20) | st.sampled_from(("linear", "gapt", "digits", "proc", "vtab", "mae-tiny", "random")),
    }
    return simple.get(kind, ANY)


settings_by_schema = by_schema(TrainSettings.model_json_schema()).flatmap(
    lambda made: st.fixed_dictionaries(
        {},
        optional={
            "backbone": st.sampled_from(("mae-tiny", "x")),
            "method": st.sampled_from(("linear", "gapt", "sa2vp")),
            "data": st.sampled_from(("digits", "folder", "ade20k")),
        },
    ).map(lambda sane: made | sane)
)
specs_by_schema = by_schema(Spec.model_json_schema()).flatmap(
    lambda made: st.fixed_dictionaries(
        {},
        optional={
            "backbone": st.just("mae-tiny"),
            "tasks": st.sampled_from((["digits"], "vtab", "proc")),
            "claims": st.just({}),
            "quirks": st.just({}),
        },
    ).map(lambda sane: made | sane)
)
NAMED = ("setting", "option", "missing", "unknown", "task", "out", "expected", "head", "arguments")


def settings(folder: Path):
    def make(value: Any) -> Case:
        def read() -> None:
            _settle(value)

        return Case(read, (*NAMED, *map(str, value)), repr(value)[:300])

    return make


def _settle(given: dict[str, Any]) -> None:
    """As far as a run goes before it opens data."""
    made = resolve(**given)
    method_config(made.method, made.options)
    assert len(made.hash) == 12


def specs(folder: Path):
    path = folder / "hostile.yaml"

    def make(value: Any) -> Case:
        path.write_text(yaml.safe_dump(value, allow_unicode=False), encoding="utf-8")
        return Case(lambda: _plan(path), ("hostile.yaml", "spec ", "unknown task", "grid: "), repr(value)[:300])

    return make


def _plan(path: Path) -> None:
    """As far as a sweep goes before it opens data."""
    spec = read_spec(path)
    changed = overridden(spec, {"epochs": 2})
    for one in (spec, changed):
        task = one.task_names()[0]
        for label in list(one.methods)[:3]:
            one.points(label, task)
            one.settings_of(label, task)
    spec.single_run({"method": next(iter(spec.methods)), "data": spec.task_names()[0]})


BOMB = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)])


def _snippets(canary: Path) -> tuple[str, ...]:
    """YAML that runs code with the unsafe loaders, or explodes with the safe ones."""
    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    return (
        f"!!python/object/apply:os.system ['{shell}']",
        f'!!python/object/new:os.system ["{shell}"]',
        f'!!python/object/apply:eval ["{code}"]',
        f"!!python/object/apply:subprocess.Popen [[touch, {canary}]]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1, 2]",
        "!!binary gIGC",
        "!!timestamp 2001-99-99",
        "!!timestamp x",
        "2001-12-14",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
        "!!bool maybe",
        "!!int ''",
        "0b",
        "1:" * 200 + "1",
        "9" * 5000,
        ".nan",
        "-.inf",
        "&a [*a]",
        "*nowhere",
        "!unknown x",
        "[" * 3000,
        "{a: " * 500,
        "? {a: 1}",
        "[" * 150_000,
        "<<: [1]",
        "{<<: {a: 1}, <<: {a: 2}}",
        "\t- x",
        "|\n  text",
        "'",
        '"\\ud800"',
        "{" + BOMB.replace("\n", ", ") + "}",
        "~",
        "",
        "x" * 70_000,
        '"' + "1:" * 400_000 + '"',
        "1:" * 400_000 + "1",
        "no",
        "0o17",
        "1_000",
        "1e3",
        "%YAML 9.9\n---",
        "--- a\n--- b",
    )


def texts(folder: Path, outside: Path):
    """Recipes and run configs as texts: a value replaced by a snippet, a bomb in front, bytes damaged."""
    sound = [read_text(name) for name in list_recipes()[:6]]
    config = yaml.safe_dump(resolve(**SETTINGS).model_dump(mode="json"), sort_keys=False)
    snippets = _snippets(folder.parent / "canary")
    path, run = folder / "hostile.yaml", folder / "run"
    run.mkdir()

    def draw(rng: Random) -> Case:
        is_run = rng.random() < 0.4
        text = config if is_run else rng.choice(sound)
        kind = rng.randrange(5)
        if kind < 2:
            lines = [line for line in text.splitlines() if line.strip()]
            place = rng.randrange(len(lines))
            lines[place] = f"{lines[place].split(':')[0]}: {rng.choice(snippets)}"
            content = "\n".join(lines).encode(errors="surrogatepass")
        elif kind == 2:
            content = f"{BOMB}\n{text.replace(': ', f': *a{rng.randrange(12)} # ', 1)}".encode()
        elif kind == 3:
            content = damaged(text.encode(), rng)
        else:
            value = altered(yaml.safe_load(text), rng)
            content = _dumped(value).encode(errors="surrogatepass")
        (run / "config.yaml" if is_run else path).write_bytes(content)
        read = (lambda: read_settings(run).hash) if is_run else (lambda: _plan(path))
        named = (str(run),) if is_run else ("hostile.yaml", "spec ", "unknown task", "grid: ")
        return Case(read, named, repr(content[:300]))

    return draw


def read_text(recipe: str) -> str:
    return yaml.safe_dump(read_spec(recipe).model_dump(mode="json", exclude_none=True), sort_keys=False)


def _dumped(value: Any) -> str:
    try:
        return yaml.safe_dump(value)
    except RecursionError:
        return "[" * 900


def arguments(folder: Path, outside: Path):
    """What a program or a shell passes on: settings altered as values."""

    def draw(rng: Random) -> Case:
        given = altered(SETTINGS, rng)
        given = given if isinstance(given, dict) else {"backbone": junk(rng)}
        if rng.random() < 0.3:
            given["options"] = rng.choice((junk(rng), nested(5, rng), {"num_prompts": junk(rng)}))
        given = {str(key): value for key, value in given.items()}

        def read() -> None:
            _settle(given)

        return Case(read, (*NAMED, *given), repr(given)[:300])

    return draw
