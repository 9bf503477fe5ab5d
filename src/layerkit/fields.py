"""What the values of layerkit.toml may be: types of fields, each with its check, and what is said where it fails."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from .errors import ConfigurationError
from .oci import Platform, Reference

__all__ = [
    "NO_SECRET",
    "Absolute",
    "Attests",
    "Base",
    "Insides",
    "Line",
    "Lines",
    "Mode",
    "Name",
    "Owner",
    "Platforms",
    "Ports",
    "Size",
    "Variables",
    "complaints",
    "items",
    "size_in_bytes",
]


_NUMERIC_OWNER = re.compile(r"(?P<user>\d{1,10}|root)(?::(?P<group>\d{1,10}|root))?")
_MAX_OWNER = 2**32 - 2  # of a uid_t; its -1 means "leave as it is"
_OCTAL = re.compile(r"0?[0-7]{3,4}")
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:token|secret|passwd|password|api_?key|credentials?|private_?key)(?:$|[_-])"
)
# A URL from behind its :// on, with no more of a login than what git hosts have everybody write: a token may stand
# in the place of any other user.
NO_SECRET = r"(?:git|oauth2|x-access-token)@[^/?#\s@]*(?:[/?#\s]|$)"
_LOGIN = re.compile(rf"https?://(?!{NO_SECRET})(?![^/\s@]*\$\{{)[^/\s@]+@")
_SIZE = re.compile(r"(?P<number>\d{1,12}(?:\.\d{1,6})?) ?(?P<unit>(?:[KMGTkmgt]i?)?[Bb]?)")
_UNITS = {letter + i + b: (1024 if i else 1000) ** power for power, letter in enumerate(("", "k", "m", "g", "t"))
          for i in ("", "i") for b in ("", "b") if letter or not i}  # fmt: skip
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

T = TypeVar("T")


def items(value: Sequence[T]) -> Sequence[T]:
    """As a tuple, which nobody can change."""
    return tuple(value)


def _line(value: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("control characters and line breaks are not allowed here")
    if not value:
        raise ValueError("must not be empty")
    return value


def _absolute(value: str) -> str:
    path = PurePosixPath(_line(value))
    if not path.is_absolute() or ".." in path.parts or "$" in value:
        raise ValueError(f"{value!r} must be an absolute path in the image, without '..' or variables")
    return value


def _inside(value: str) -> str:
    path = PurePosixPath(_line(value))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value!r} must be a path inside the project folder")
    return value


def _owner(value: str) -> str:
    if not _NUMERIC_OWNER.fullmatch(value):
        raise ValueError(
            f"{value!r} is no owner: write numbers, as in '1000:1000' (a layer that is linked, not copied,"
            " has no /etc/passwd to look a name up in; 'root' is 0)"
        )
    if any(part != "root" and int(part) > _MAX_OWNER for part in value.split(":")):
        raise ValueError(f"{value!r} is no owner: the highest number is {_MAX_OWNER}")
    return value


def _mode(value: str) -> str:
    if not _OCTAL.fullmatch(value):
        raise ValueError(f"{value!r} is no octal mode, as in '0644'")
    return value


def _name(value: str) -> str:
    try:
        reference = Reference.parse(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    if reference.tag or reference.digest:
        raise ValueError(f"{value!r} must be a repository without a tag: tags are given to the build (-t v2)")
    return value


def _base(value: str) -> str:
    try:
        Reference.parse(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    return value


def _platform(value: str) -> str:
    return str(Platform.parse(value))


def _variables(value: Mapping[str, str]) -> Mapping[str, str]:
    for name, text in value.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no variable name")
        # A proxy's is no matter: BuildKit keeps its variables out of the history.
        login = _LOGIN.search(text) is not None and not name.lower().endswith("_proxy")
        if login or _SECRET_NAME.search(name):
            why = "has a URL with a login" if login else "looks like a secret"
            raise ValueError(
                f"{name!r} {why}, and would stay in the image's history: give it as"
                f" [builder.secrets] {name} = {{ env = {name!r} }} and RUN --mount=type=secret,id={name}"
            )
    return value


def _attests(value: Sequence[str]) -> Sequence[str]:
    for text in value:
        try:
            fields = dict(field.partition("=")[::2] for field in next(csv.reader([text]), []))
        except csv.Error:
            fields = {}
        modes = ("", "min", "max") if fields.get("type") == "provenance" else ("",)
        if (
            fields.get("type") not in ("sbom", "provenance")
            or "" in fields.values()
            or fields.get("mode", "") not in modes
            or fields.get("disabled", "false") not in ("true", "false")
        ):
            raise ValueError(f"{text!r} is no attestation, as in 'type=sbom' or 'type=provenance,mode=max'")
    return tuple(value)


def size_in_bytes(text: str) -> int:
    """Bytes of ``1GiB``, ``500 MB``, ``4096``: units of 1024 with an i, of 1000 without.

    Raises:
        ValueError: not a size, or none above 0.
    """
    found = _SIZE.fullmatch(text.strip())
    value = int(float(found["number"]) * _UNITS[found["unit"].lower()]) if found else 0
    if not value:
        raise ValueError(f"{text!r} is no size, as in '1GiB' or '500MB'")
    return value


def _size(value: str) -> str:
    size_in_bytes(value)
    return value


def complaints(error: ValidationError) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(where, what is wrong there) of each problem that pydantic found, in words that fit a file too."""
    for item in error.errors(include_url=False):
        # Positions of union branches and of dataclass arguments are pydantic's own.
        where = tuple(part for part in item["loc"] if not re.search(r"[\[\(]", str(part)))
        kind, message = item["type"], item["msg"].removeprefix("Value error, ")
        expected = item.get("ctx", {}).get("class") or item.get("ctx", {}).get("class_name")
        if kind in ("missing", "missing_argument"):
            message = "is required"
        elif kind in ("unexpected_keyword_argument", "extra_forbidden"):
            message = "unknown key"
        elif kind == "sequence_str" or (kind == "is_instance_of" and expected == "Sequence"):
            given = item["input"]
            message = f"must be a list, as in [{given}]" if isinstance(given, int) else 'must be a list, as in ["…"]'
        elif kind == "dict_type":
            message = 'must be a table, as in { NAME = "value" }'
        elif kind == "dataclass_type":
            message = 'must be { file = "…" } or { env = "…" }' if expected == "Secret" else f"is no {expected}"
        yield where, message[:1].lower() + message[1:]


Line = Annotated[str, AfterValidator(_line), Field(json_schema_extra={"minLength": 1})]
Absolute = Annotated[str, AfterValidator(_absolute), Field(json_schema_extra={"pattern": "^/"})]
Inside = Annotated[str, AfterValidator(_inside)]
Lines = Annotated[Sequence[Line], AfterValidator(items)]
Attests = Annotated[Sequence[Line], AfterValidator(_attests)]
Insides = Annotated[Sequence[Inside], AfterValidator(items)]
Variables = Annotated[Mapping[str, str], AfterValidator(_variables)]
Platforms = Annotated[Sequence[Annotated[str, AfterValidator(_platform)]], AfterValidator(items)]
Ports = Annotated[Sequence[Annotated[int, Field(ge=1, le=65535)]], AfterValidator(items)]
Name = Annotated[str, AfterValidator(_name)]
Base = Annotated[str, AfterValidator(_base)]
Owner = Annotated[str, AfterValidator(_owner)]
Mode = Annotated[str, AfterValidator(_mode)]
Size = Annotated[str, AfterValidator(_size)]
