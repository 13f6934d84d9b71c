"""A composed configuration as text: for the run directory and for the terminal."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from thinkrl.config.composed import Composed
from thinkrl.config.layers import dotted, leaves

if TYPE_CHECKING:
    from rich.text import Text


class _Dumper(yaml.SafeDumper):
    """Block style with list items indented, and no anchors for values that occur twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes every value out."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indents lists under their key."""
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Quotes what OmegaConf would read as a number, so that text stays text when it is read again."""
    style = "|" if "\n" in value else None
    if style is None and _reads_as_number(value):
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def _reads_as_number(value: str) -> bool:
    try:
        float(value.replace("_", ""))
    except ValueError:
        return False
    return True


def to_yaml(tree: Mapping[str, Any]) -> str:
    """A tree as YAML in its own order; reading it gives the same tree."""
    return yaml.dump(
        dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False
    )


def config_text(composed: Composed) -> str:
    """The `config.yaml` of a run: every value, resolved."""
    return f"# {composed.recipe_id}, composed. Who set each value is in origins.yaml.\n{to_yaml(composed.tree)}"


def origins_text(composed: Composed) -> str:
    """The `origins.yaml` of a run: who set each value, by dotted key, in the order of `config.yaml`."""
    return to_yaml(ordered_origins(composed))


def ordered_origins(composed: Composed) -> dict[str, str]:
    """Origins in the order of the tree."""
    keys = [dotted(path) for path, _ in leaves(composed.tree)]
    return {key: composed.origin(key) for key in keys}


def to_json(composed: Composed) -> str:
    """Configuration and origins as one JSON object."""
    return json.dumps({"config": composed.tree, "origins": ordered_origins(composed)}, indent=2)


def with_origins(composed: Composed) -> "Text":
    """The configuration for a terminal: keys, values, and behind each value who set it."""
    from rich.text import Text

    text = Text()
    _lines(text, composed, composed.tree, "", 0)
    return text


def _lines(text: "Text", composed: Composed, node: Any, path: str, depth: int) -> None:
    pairs = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in pairs:
        here = f"{path}.{key}" if path else str(key)
        text.append("  " * depth)
        text.append(f"{key}:" if isinstance(node, Mapping) else "-", style="cyan")
        if isinstance(value, Mapping | list) and value and not _is_short(value):
            text.append("\n")
            _lines(text, composed, value, here, depth + 1)
            continue
        shown = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**6, allow_unicode=True)
        text.append(f" {shown.removesuffix(chr(10)).removesuffix(chr(10) + '...')}", style="bold")
        text.append(f"  # {composed.origin(here)}\n", style="dim")


def _is_short(value: Any) -> bool:
    return isinstance(value, list) and all(not isinstance(item, Mapping | list) for item in value)
