"""The AsyncAPI document as validators, for every test that has a record in hand."""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema
import yaml

__all__ = ["DOCUMENT_FILE", "children", "document", "header_validator", "resolve", "validator"]

DOCUMENT_FILE = Path(__file__).resolve().parents[2] / "infra" / "docs" / "asyncapi.yaml"


@cache
def document() -> dict[str, Any]:
    """The whole document; not to be changed."""
    return yaml.safe_load(DOCUMENT_FILE.read_text("utf-8"))


def children(node: Any) -> list[Any]:
    """What a decoded JSON or YAML value directly holds."""
    if isinstance(node, dict):
        return list(cast("dict[str, Any]", node).values())
    return cast("list[Any]", node) if isinstance(node, list) else []


def resolve(reference: str) -> Any:
    """What a local ``$ref`` points at; KeyError when nothing."""
    if not reference.startswith("#/"):
        raise KeyError(f"{reference} is not in this document")
    node: Any = document()
    for part in reference[2:].split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def validator(message_name: str) -> Any:
    """A jsonschema validator of a message's payload, such as ``validator("recommendationList").validate(value)``.

    Beyond JSON Schema it holds ``x-bytes-max`` for strings, ``x-depth-max``, and that numbers are finite.
    """
    return _validator_of(document()["components"]["messages"][message_name]["payload"])


def header_validator(message_name: str) -> Any:
    """The same for a message's headers as ``{name: text}``, those of its traits included."""
    message = document()["components"]["messages"][message_name]
    parts = [message, *(resolve(trait["$ref"]) for trait in message.get("traits", []))]
    return _validator_of({"allOf": [part["headers"] for part in parts if "headers" in part]})


def _validator_of(schema: Mapping[str, Any]) -> Any:
    # The document's own references start at its root, so the schema is wrapped in what they point into.
    return _Validator({**schema, "components": document()["components"]})


def _bytes_max(_validator: Any, limit: int, instance: Any, _schema: Any) -> Iterator[jsonschema.ValidationError]:
    if isinstance(instance, str) and len(instance.encode("utf-8", "surrogatepass")) > limit:
        yield jsonschema.ValidationError(f"longer than {limit} bytes")


def _depth_max(_validator: Any, limit: int, instance: Any, _schema: Any) -> Iterator[jsonschema.ValidationError]:
    if _depth(instance) > limit:
        yield jsonschema.ValidationError(f"nested deeper than {limit}")


def _depth(node: Any) -> int:
    if not isinstance(node, (dict, list)):
        return 0
    return 1 + max((_depth(child) for child in children(node)), default=0)


def _is_number(_checker: Any, instance: Any) -> bool:
    return isinstance(instance, (int, float)) and not isinstance(instance, bool) and math.isfinite(instance)


_jsonschema: Any = jsonschema
_Validator: Any = _jsonschema.validators.extend(
    _jsonschema.Draft7Validator,
    {"x-bytes-max": _bytes_max, "x-depth-max": _depth_max},
    type_checker=_jsonschema.Draft7Validator.TYPE_CHECKER.redefine("number", _is_number),
)
