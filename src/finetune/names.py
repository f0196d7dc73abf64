"""TensorFlow's names for nodes, tensors and control inputs: parse, print, suggest.

A node is `scope/op`, a tensor is `scope/op:0`, a control input is `^scope/op`. Inside a `GraphDef` the first
output of a node is written without its `:0`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def node_of(ref: str) -> str:
    """The node that an input or a tensor name refers to.

    >>> node_of("fc7:0"), node_of("^fc7"), node_of("fc7")
    ('fc7', 'fc7', 'fc7')
    """
    return ref.removeprefix("^").partition(":")[0]


def port_of(ref: str) -> int:
    """Which output of its node an input refers to.

    >>> port_of("split:2"), port_of("fc7")
    (2, 0)
    """
    return int(ref.partition(":")[2] or 0)


def is_control(ref: str) -> bool:
    """Whether an input only orders execution and carries no value."""
    return ref.startswith("^")


def tensor_name(ref: str) -> str:
    """The name with its output number, as users write tensors.

    >>> tensor_name("fc7"), tensor_name("split:2")
    ('fc7:0', 'split:2')
    """
    return f"{node_of(ref)}:{port_of(ref)}"


def input_ref(tensor: str) -> str:
    """The name as a `GraphDef` writes it among a node's inputs.

    >>> input_ref("fc7:0"), input_ref("split:2")
    ('fc7', 'split:2')
    """
    return node_of(tensor) if port_of(tensor) == 0 else tensor


def nearest(name: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """The known names most like a misspelt one, best first.

    >>> nearest("fc_7", ["fc6", "fc7", "conv1/weights", "vgg/fc7"])
    ['fc7', 'fc6', 'vgg/fc7']
    """
    known = list(dict.fromkeys(names))
    # A name that differs only in its scope or its case is what people most often mean.
    same_leaf = [n for n in known if n.rpartition("/")[2].lower() == name.rpartition("/")[2].lower()]
    alike = difflib.get_close_matches(name, known, n=limit, cutoff=0.5) if len(known) < 20_000 else []
    return list(dict.fromkeys([*same_leaf[:limit], *alike]))[:limit]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The suggestion for an error message, or nothing.

    >>> did_you_mean("fc_7", ["fc6", "fc7"])
    'did you mean fc7 or fc6?'
    """
    found = nearest(name, names)
    return f"did you mean {' or '.join(found)}?" if found else ""


def unused(name: str, taken: Iterable[str]) -> str:
    """`name`, with a number behind it if it is taken.

    >>> unused("head/seed", {"head/seed"})
    'head/seed_1'
    """
    taken = set(taken)
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
