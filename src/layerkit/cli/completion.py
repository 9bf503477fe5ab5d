"""Completion in shells: the scripts, and what only layerkit knows: keys of --set, rules, platforms, builders.

click's own scripts split words where bash does, at ``=`` and ``:``, which keys, tags and ``oci:DIR`` are full of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["builders", "keys", "outputs", "platforms", "rules", "script"]

VARIABLE = "_LAYERKIT_COMPLETE"
_PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/ppc64le", "linux/riscv64", "linux/s390x")

_BASH = """\
_layerkit_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" words word type value
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]}-1]}"
    # bash puts what is chosen in the place of the part behind the last = or : of the word.
    local before="${word%"${word##*[=:]}"}"
    [[ "$COMP_WORDBREAKS" == *[=:]* ]] || before=""
    COMPREPLY=()
    while IFS=, read -r type value; do
        case "$type" in
            dir) compopt -o dirnames 2> /dev/null ;;
            file) compopt -o default 2> /dev/null ;;
            plain)
                [[ "$value" == *[=:] ]] && compopt -o nospace 2> /dev/null
                COMPREPLY+=("${value#"$before"}") ;;
        esac
    done < <(COMP_WORDS="$line" COMP_CWORD=$((${#words[@]} - 1)) _LAYERKIT_COMPLETE=bash_complete "$1")
}
complete -o nosort -F _layerkit_completion layerkit
"""

_ZSH = """\
#compdef layerkit

_layerkit_completion() {
    local -a whole open response
    local type key descr
    (( ! $+commands[layerkit] )) && return 1
    local -x COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) _LAYERKIT_COMPLETE=zsh_complete
    response=("${(@f)$(layerkit)}")
    for type key descr in ${response}; do
        case "$type" in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain)
                [[ "$descr" == _ ]] && descr="" || descr=":$descr"
                if [[ "$key" == *[=:] ]]; then open+=("$key$descr"); else whole+=("$key$descr"); fi ;;
        esac
    done
    (( $#whole )) && _describe -V layerkit whole -U
    # What a value follows is not followed by a space.
    (( $#open )) && _describe -V layerkit open -U -S ''
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _layerkit_completion "$@"
else
    compdef _layerkit_completion layerkit
fi
"""


def script(shell: str, command: click.Command) -> str:
    """What *shell* (bash, zsh or fish) has to evaluate."""
    if shell in ("bash", "zsh"):
        return _BASH if shell == "bash" else _ZSH
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    return made(command, {}, "layerkit", VARIABLE).source()


def keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``table.key=`` for --set, and behind the ``=`` the values where there are few."""
    from click.shell_completion import CompletionItem

    from ..project import schema

    document = schema()
    key, equals, _ = incomplete.partition("=")
    found = []
    for name, described in _keys(document):
        if equals and name == key:
            found += [CompletionItem(f"{name}={value}") for value in described.get("enum", ()) if value]
        elif not equals:
            found.append(CompletionItem(f"{name}=", help=described.get("description", "")))
    return [item for item in found if item.value.startswith(incomplete)]


def _keys(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for table, described in document["properties"].items():
        for key, inner in document["$defs"][described["$ref"].rpartition("/")[2]]["properties"].items():
            yield f"{table}.{key}", inner


def rules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of lint's rules, also behind a comma."""
    from click.shell_completion import CompletionItem

    from ..lint import RULES

    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(before + comma + r.name, help=r.summary) for r in RULES if r.name.startswith(last)]


def platforms(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Platforms of images, also behind a comma."""
    from click.shell_completion import CompletionItem

    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(before + comma + name) for name in _PLATFORMS if name.startswith(last)]


def builders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Builders that buildx has noted down (``buildx/instances`` beside Docker's config.json); docker is not asked."""
    from click.shell_completion import CompletionItem

    from ..settings import Settings

    folder = Settings.from_environment().docker_config / "buildx" / "instances"
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def outputs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``oci:``, which a folder follows."""
    from click.shell_completion import CompletionItem

    return [CompletionItem("oci:", help="an OCI layout in that folder")] if "oci:".startswith(incomplete) else []
