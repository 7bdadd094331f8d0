"""`spdk-ftl completion`: what bash and zsh need to complete our commands, made from their parsers."""

from __future__ import annotations

import argparse
import shlex
from typing import Any, Final

from ..usage import values_of

SHELLS: Final = ("bash", "zsh")
_PATHS: Final = frozenset(
    ("PATH", "FILE", "DIR", "SOCKET", "TARGET", "dhchap_key", "dhchap_ctrlr_key", "psk", "target_psk")
)
"""The metavars, or else the names, of arguments that take a path."""

_DESCRIPTION: Final = """\
Print a script with which a shell completes commands, options and their values. For bash, in ~/.bashrc:
  eval "$(spdk-ftl completion bash)"
For zsh, in ~/.zshrc, behind compinit:
  eval "$(spdk-ftl completion zsh)"
"""
_ZSH: Final = "autoload -Uz bashcompinit && bashcompinit\n"
_HEAD: Final = """\
_spdk_ftl() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
    local options= values= paths= taken=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
"""
_TAIL: Final = """\
        *) return ;;
    esac
    case " $paths " in *" $before "*)
        # zsh has no compopt.
        type compopt >/dev/null 2>&1 && compopt -o filenames
        COMPREPLY=($(compgen -f -- "$current"))
        return ;;
    esac
    if [ -n "$values" ]; then
        options=$values
    else
        case " $taken " in *" $before "*) return ;; esac
        case "$current" in
            -*) ;;
            *) type compopt >/dev/null 2>&1 && compopt -o filenames
               COMPREPLY=($(compgen -f -- "$current"))
               return ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$options" -- "$current"))
}
complete -F _spdk_ftl spdk-ftl
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes these commands in bash or zsh",
        description=_DESCRIPTION,
        epilog="exit codes: 0 success, 1 failure, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)

    def run(args: argparse.Namespace) -> int:
        # At this point all commands are registered.
        known: dict[str, Any] = dict(subparsers.choices)
        print(script(known, args.shell), end="")
        return 0

    parser.set_defaults(run=run)


def script(commands: dict[str, argparse.ArgumentParser], shell: str) -> str:
    """commands: their parsers by name. shell: one of SHELLS."""
    names = " ".join(sorted(commands))
    lines = [
        f"        COMPREPLY=($(compgen -W '{names} --help --version' -- \"$current\"))",
        "        return",
        "    fi",
    ]
    lines.append('    case "$command" in')
    for name, parser in sorted(commands.items()):
        lines += _one(name, parser)
    return (_ZSH if shell == "zsh" else "") + _HEAD + "\n".join(lines) + "\n" + _TAIL


def _one(name: str, parser: argparse.ArgumentParser) -> list[str]:
    options = [option for action in parser._actions for option in action.option_strings if "_" not in option]
    taking = [action for action in values_of(parser) if action.option_strings]
    paths = [each for action in taking if _is_path(action) for each in action.option_strings]
    taken = [each for action in taking if not _is_path(action) for each in action.option_strings]
    lines = [f"        {name})", f"            options={shlex.quote(' '.join(options))}"]
    lines += [f"            paths={shlex.quote(' '.join(paths))}", f"            taken={shlex.quote(' '.join(taken))}"]
    chosen = [action for action in parser._actions if action.choices is not None]
    if chosen:
        lines.append('            case "$before" in')
        for action in chosen:
            values = list(map(str, action.choices or ()))
            # The value of a positional argument follows the command, where an option may follow, too.
            behind = "|".join(action.option_strings) or name
            values += [] if action.option_strings else options
            lines.append(f"                {behind}) values={shlex.quote(' '.join(values))} ;;")
        lines.append("            esac")
    return [*lines, "            ;;"]


def _is_path(action: argparse.Action) -> bool:
    return not _PATHS.isdisjoint((str(action.metavar), action.dest))
