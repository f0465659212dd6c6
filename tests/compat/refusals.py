"""What the second reader must refuse although its author has signed it: what a host may write, and may not claim.

`refusals.py GOLDEN` takes a golden vault, lets the reader read it with one field changed after the signature was verified,
and expects the refusal that FORMAT.md asks for. It needs what reader.py needs.
"""

import sys
from collections.abc import Callable
from json import loads
from pathlib import Path
from typing import Any
from unittest import mock

import reader

# Changes a commit, and its point if it is one.
Change = Callable[[Any, Any], Any]


def opened(golden: Path) -> reader.Vault:
    return reader.Vault(golden / "vault", golden / "kit.toml", golden / "passphrase")


def refusal(golden: Path, which: str, change: Change) -> str:
    """What the reader says of all points if this was changed in the newest commit, or in that of the newest point."""
    vault = opened(golden)
    [(lineage, newest, _)] = list(vault.points())[-1:]
    changed = {"point": newest["sequence"], "commit": lineage.newest}[which]

    def loads_changed(text: Any) -> Any:
        found = loads(text)
        if isinstance(found, dict) and found.get("head", {}).get("sequence") == changed:
            change(found, found["event"].get("point"))
        return found

    with mock.patch.object(reader.json, "loads", loads_changed):
        return said(lambda: list(reader.Lineage(vault, lineage.id).points()))


def said(read: Callable[[], Any]) -> str:
    try:
        read()
    except ValueError as error:
        return str(error)
    return ""


def while_a_prune_is_at_work(golden: Path, look: int) -> str:
    """What the reader says if another boundary is there when it looks for one for this time."""
    vault, looks, newest = opened(golden), [], reader.Vault.newest

    def looking(vault: reader.Vault, folder: str, *rest: int) -> int:
        is_look = folder.endswith("/boundaries")
        looks.extend([folder] * is_look)
        return newest(vault, folder, *rest) + (is_look and len(looks) == look)

    with mock.patch.object(reader.Vault, "newest", looking):
        return said(lambda: list(vault.points()))


def order_of_reading(golden: Path) -> list[str]:
    """What the reader does: "look" for a boundary, "load" an object of the lineage."""
    vault, order, newest, load = opened(golden), [], reader.Vault.newest, reader.Vault.load

    def looking(vault: reader.Vault, folder: str, *rest: int) -> int:
        order.extend(["look"] * folder.endswith("/boundaries"))
        return newest(vault, folder, *rest)

    def loading(vault: reader.Vault, key: str, *rest: int) -> Any:
        order.extend(["load"] * key.startswith("lineages/"))
        return load(vault, key, *rest)

    with mock.patch.multiple(reader.Vault, newest=looking, load=loading):
        list(vault.points())
    return order


def main(golden: Path) -> None:
    expected: list[tuple[str, str, Change]] = [
        ("", "point", lambda _, __: None),
        ("another lineage or number", "point", lambda commit, _: commit.update(lineage="00" * 16)),
        ("another lineage or number", "point", lambda commit, _: commit["head"].update(sequence=1)),
        ("its point is of another", "point", lambda _, point: point.update(lineage="00" * 16)),
        ("its point is of another", "point", lambda _, point: point.update(sequence=1)),
        ("its point is of another", "point", lambda _, point: point.update(generation=7)),
        ("its point is of another", "point", lambda commit, _: commit["head"].update(generation=7)),
        ("its point is of another", "point", lambda commit, _: commit["event"].update(point=[])),
        ("does not follow", "point", lambda commit, _: commit.update(previous="00" * 32)),
        ("contradicts the newest boundary", "commit", lambda commit, _: commit["head"].pop("pruned")),
    ]
    for number, (what, which, change) in enumerate(expected):
        found = refusal(golden, which, change)
        assert what in found and bool(what) == bool(found), f"change {number}: {found!r} instead of {what!r}"
    order = order_of_reading(golden)
    assert order[-1] == "look" and order.count("look") == 3, f"it looks when all was read: {order}"
    for look in (2, 3):
        found = while_a_prune_is_at_work(golden, look)
        assert "a prune is at work" in found, f"look {look}: {found!r}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
