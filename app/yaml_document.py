"""Reading YAML that anybody may have written: no code, no bombs, and no key that says two things."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from app.domain.errors import BadRequest

_MOST_LEVELS = 20
_MOST_NODES = 500_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str, called: str) -> Any:
    """Return what a YAML text says, of which JSON is a part.

    Args:
        text: one document.
        called: its name in messages.

    Raises:
        BadRequest: ``invalid_manifest``: it is not YAML, repeats a key, or is far larger than its text.
    """
    try:
        _refuse_bombs(text, called)
        loader = _LOADER(text)
        try:
            root = loader.get_single_node()
            _refuse_repeated_keys(root, called)
            return None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:
        raise _invalid(f"{called} is not YAML{_place(error)}", "Check the indentation and the quotes.") from error


def _refuse_repeated_keys(root: yaml.Node | None, called: str) -> None:
    """Refuse a mapping in which a key stands twice: the parser would take the last one, and lose the others."""
    waiting: list[yaml.Node | None] = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            _refuse_repeated([key for key, _ in node.value], called)
            waiting += [part for pair in node.value for part in pair]


def _refuse_repeated(keys: Sequence[yaml.Node], called: str) -> None:
    first: dict[tuple[str, str], int] = {}
    for key in keys:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line, known = key.start_mark.line + 1, first.get((key.tag, key.value))
        if known is not None:
            told = f"{called}, line {line}: {key.value[:60]!r} stands in line {known} already"
            raise _invalid(told, "Give every key once: the last one would win.")
        first[key.tag, key.value] = line


def _refuse_bombs(text: str, called: str) -> None:
    """Refuse what takes far more memory or time than its length: anchors of anchors, and brackets within brackets.

    Every node is counted as often as ``*name`` repeats it.
    """
    nodes = [_Node()]
    known: dict[str, _Node] = {}
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            nodes.append(_Node(event.anchor))
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise _invalid(f"{called} refers to *{event.anchor}, which does not stand before", "Write it out.")
            nodes[-1].hold(known[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            nodes[-1].hold(_Node())
            if event.anchor:
                known[event.anchor] = _Node()
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = nodes.pop()
            if ended.anchor:
                known[ended.anchor] = ended
            nodes[-1].hold(ended)
        if len(nodes) + nodes[-1].levels > _MOST_LEVELS:
            raise _invalid(f"{called} is nested too deeply", "A specification has a few levels only.")
        if nodes[-1].size > _MOST_NODES:
            raise _invalid(f"{called} says more than {_MOST_NODES} things", "Split it.")


@dataclass
class _Node:
    anchor: str | None = None
    size: int = 1
    levels: int = 1

    def hold(self, other: "_Node") -> None:
        self.size += other.size
        self.levels = max(self.levels, other.levels + 1)


def _place(error: Exception) -> str:
    """Return where and what is wrong, as far as the parser tells."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return (f", line {mark.line + 1}" if mark else "") + (f": {problem}" if problem else "")


def _invalid(message: str, hint: str) -> BadRequest:
    return BadRequest("invalid_manifest", message, hint=hint)
