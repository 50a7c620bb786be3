"""The JSON schema of jobs.yaml, made from the tables of the method, and its check with line and cure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from esd_pack.esd.contexts import KINDS
from esd_pack.esd.merge import DEFAULT as DEFAULT_MERGE
from esd_pack.esd.merge import MODES
from esd_pack.esd.presets import PRESETS
from esd_pack.esd.settings import FIELDS

from .lines import Document, Where

Json = dict[str, Any]

EACH, GROUPS, ALL = TOGETHER = ("each", "groups", "all")
TRAINING, MERGING = BY = ("training", "merging")
DEFAULT_BY = TRAINING
"""What is better for a list: docs/batch.md has the figures."""

JUDGES = ("base model", "playground")
FORMATS = ("difference", "lora", "official", "diffusers unet", "checkpoint")
PATH, STORE = BASE_FILES = ("path", "object store")
NOT_SET = frozenset({"preset", "eta_erase_from"})

TEXT: Json = {"type": "string", "minLength": 1}
TEXTS: Json = {"type": "array", "items": TEXT, "minItems": 1}
COUNT: Json = {"type": "integer", "minimum": 1}
SHARE: Json = {"type": "number", "minimum": 0}


def choice(options: tuple[str, ...], default: str, words: str) -> Json:
    """Return the schema of one of several words."""
    return {"type": "string", "enum": list(options), "default": default, "description": words}


def table(properties: Json, required: tuple[str, ...] = (), words: str = "") -> Json:
    """Return the schema of a table that has no other keys."""
    made: Json = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {"description": words, **made} if words else made


def _settings() -> Json:
    fields: Json = {"name": {**TEXT, "description": "What the report calls them."}}
    fields["preset"] = choice(tuple(PRESETS), "default", "A published run; what stands beside it counts before it.")
    for name, field in FIELDS.items():
        if name not in NOT_SET:
            fields[name] = _field(field)
    return table(fields, words="Inputs of ESD Erase Concept and ESD Erase Settings.")


def _field(field: Any) -> Json:
    about = {"default": field.default, "description": field.tooltip}
    if field.choices:
        return {"type": "string", "enum": list(field.choices), **about}
    if isinstance(field.default, bool):
        return {"type": "boolean", **about}
    kind = "integer" if isinstance(field.default, int) else "number"
    return {"type": kind, "minimum": field.low, "maximum": field.high, **about}


def _concept() -> Json:
    words = {
        "concept": {**TEXT, "description": "The words that make the model draw it."},
        "erase_from": {**TEXT, "description": "Erase it only from this prompt (an attribute)."},
        "replace_with": {**TEXT, "description": "What to draw instead."},
        "weight": {"type": "number", "minimum": 0.01, "maximum": 100, "default": 1},
        "group": {**TEXT, "description": "With together: groups, the group that it belongs to."},
        "contexts": {"$ref": "#/$defs/contexts"},
    }
    return {"anyOf": [TEXT, table(words, ("concept",))]}


def _contexts() -> Json:
    return table(
        {"kind": choice(("auto", *KINDS), "auto", "What the concept is."), "templates": TEXTS, "carriers": TEXTS},
        words="As in ESD Contexts.",
    )


def _evaluate() -> Json:
    return table(
        {
            "judge": choice(JUDGES, JUDGES[0], "Who looks at the pictures."),
            "erased": {**TEXTS, "description": "Prompts with [concept] in them; prompt -> label for another label."},
            "kept": {**TEXTS, "description": "What should be drawn as before; without it the prompts of keep."},
            "alternatives": {**TEXTS, "description": "Further answers of the judge, which are not drawn."},
            "samples": {**COUNT, "maximum": 1000, "default": 4},
            "seed": {"type": "integer", "minimum": 0, "default": 0},
            "steps": {**COUNT, "maximum": 1000, "default": 20},
            "cfg": {"type": "number", "minimum": 0, "maximum": 100, "default": 7.5},
            "sampler_name": {**TEXT, "default": "euler"},
            "scheduler": {**TEXT, "default": "normal"},
            "width": {"type": "integer", "minimum": 16, "maximum": 16384, "default": 512},
            "height": {"type": "integer", "minimum": 16, "maximum": 16384, "default": 512},
            "in_model": {"type": "boolean", "default": True},
        },
        words="As in ESD Prompt Set and ESD Evaluate.",
    )


def _ray() -> Json:
    return table(
        {
            "gpus": {**SHARE, "default": 1, "description": "GPUs of a worker; 0 runs on the CPU."},
            "cpus": {**SHARE, "default": 1},
            "memory_gb": {**SHARE, "default": 0, "description": "Main memory of a worker; 0 asks for none."},
            "base_files": choice(
                BASE_FILES, PATH, "path: every node sees the models. object store: Ray brings them, once a node."
            ),
            "largest_gb": {**SHARE, "default": 8, "description": "The largest base file for the object store."},
        },
        words="For --ray.",
    )


def jobs_schema() -> Json:
    """Return the whole schema."""
    keep = {"prompts": TEXTS, "weight": {"type": "number", "minimum": 0, "maximum": 100, "default": 1}}
    top = {
        "name": {"type": "string", "minLength": 1, "maxLength": 60, "description": "What the report calls the batch."},
        "models": {**TEXTS, "description": "Checkpoints, as ESD Load Model lists them."},
        "concepts": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/concept"}},
        "together": choice(TOGETHER, EACH, "What one result lacks: each concept alone, a group of them, or all."),
        "by": choice(BY, DEFAULT_BY, "How several come into one result: one training of all, or singles merged."),
        "merge": choice(MODES, DEFAULT_MERGE, "With by: merging, the mode of ESD Merge Erasures."),
        "settings": {"anyOf": [{"$ref": "#/$defs/settings"}, _list("settings")]},
        "contexts": {"$ref": "#/$defs/contexts"},
        "keep": {"type": "array", "minItems": 1, "items": {"anyOf": [TEXT, table(keep, ("prompts",))]}},
        "evaluate": {"$ref": "#/$defs/evaluate"},
        "save": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": list(FORMATS)}},
        "results": {**TEXT, "description": "A folder, or a URL that fsspec knows, for all results."},
        "ray": {"$ref": "#/$defs/ray"},
    }
    parts = {"concept": _concept(), "contexts": _contexts(), "settings": _settings()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "jobs.yaml of ESD Concept Erasure",
        **table(top, ("models", "concepts")),
        "$defs": {**parts, "evaluate": _evaluate(), "ray": _ray()},
    }


def _list(name: str) -> Json:
    return {"type": "array", "minItems": 1, "items": {"$ref": f"#/$defs/{name}"}}


TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "object": (dict, "a table of key: value"),
    "array": (list, "a list, one entry a line after a dash"),
    "string": (str, "a text; put it into quotes"),
    "boolean": (bool, "true or false"),
    "integer": (int, "a whole number"),
    "number": ((int, float), "a number"),
}


def check(document: Document, schema: Json) -> None:
    """Raise EsdError with line and cure for the first value that the schema does not allow."""
    _check(document, document.data, schema, (), schema["$defs"])


def _check(document: Document, value: Any, schema: Json, where: Where, parts: Json) -> None:
    if "$ref" in schema:
        schema = parts[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        schema = _branch(document, value, schema["anyOf"], where, parts)
    kind = schema["type"]
    if not _is(value, kind):
        raise document.error(where, f"{_name(where)} is {_shown(value)}: it must be {TYPES[kind][1]}.")
    _limits(document, value, schema, where)
    if kind == "object":
        _table(document, value, schema, where, parts)
    if kind == "array":
        for place, each in enumerate(value):
            _check(document, each, schema["items"], (*where, place), parts)


def _branch(document: Document, value: Any, branches: list[Json], where: Where, parts: Json) -> Json:
    whole = [parts[b["$ref"].rpartition("/")[2]] if "$ref" in b else b for b in branches]
    fitting = [branch for branch in whole if _is(value, branch["type"])]
    if fitting:
        return fitting[0]
    wanted = ", or ".join(TYPES[branch["type"]][1] for branch in whole)
    raise document.error(where, f"{_name(where)} is {_shown(value)}: it must be {wanted}.")


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind][0]) and (kind == "boolean" or not isinstance(value, bool))


def _limits(document: Document, value: Any, schema: Json, where: Where) -> None:
    if "enum" in schema and value not in schema["enum"]:
        raise document.error(where, f"{_name(where)} is {_shown(value)}: choose {_listed(schema['enum'])}.")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and not low <= value <= (value if high is None else high):
        wanted = f"{low:g} or more" if high is None else f"from {low:g} to {high:g}"
        raise document.error(where, f"{_name(where)} is {value}: it must be {wanted}.")
    least = schema.get("minLength", schema.get("minItems", 0))
    if least and len(value.strip() if isinstance(value, str) else value) < least:
        raise document.error(where, f"{_name(where)} is empty: write at least one entry, or leave the key out.")
    if len(value) > schema["maxLength"] if "maxLength" in schema else False:
        raise document.error(where, f"{_name(where)} is longer than {schema['maxLength']} letters: shorten it.")


def _table(document: Document, value: Json, schema: Json, where: Where, parts: Json) -> None:
    known = schema["properties"]
    for key, each in value.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            cure = f'write "{near[0]}"' if near else f"the keys here are {_listed(list(known))}"
            raise document.error((*where, key), f'"{key:.40}" is no key of {_name(where)}: {cure}.')
        _check(document, each, known[key], (*where, key), parts)
    for key in schema["required"]:
        if key not in value:
            raise document.error(where, f'{_name(where)} lacks "{key}": add it.')


def _name(where: Where) -> str:
    words = [str(each) if isinstance(each, str) else f"entry {each + 1}" for each in where]
    return ", ".join(words) or "the file"


def _shown(value: Any) -> str:
    kinds = {dict: "a table", list: "a list", bool: str(value).lower(), type(None): "empty"}
    return kinds.get(type(value), f'"{value!s:.60}"')


def _listed(options: list[str]) -> str:
    return ", ".join(options)
