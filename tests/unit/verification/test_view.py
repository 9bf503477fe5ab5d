"""What is seen of a checkpoint's files under the layers above them."""

from __future__ import annotations

import pytest

from layerkit.verification.scan import Known, Node
from layerkit.verification.view import Hidden, view

W, V = Known(1, None), Known(2, None)
BELOW = (1, True, [Node("/m", "folder"), Node("/m/w", "file", W), Node("/m/v", "file", V)])


@pytest.mark.parametrize(
    "node, hidden",
    [
        pytest.param(Node("/m/w", "file"), ["/m/w"], id="same file"),
        pytest.param(Node("/m/w", "other"), ["/m/w"], id="link in its place"),
        pytest.param(Node("/m/w", "folder"), ["/m/w"], id="folder in its place"),
        pytest.param(Node("/m", "other"), ["/m/v", "/m/w"], id="folder became a link"),
        pytest.param(Node("/m/.wh.w", "file"), ["/m/w"], id="whiteout"),
        pytest.param(Node("/.wh.m", "file"), ["/m/v", "/m/w"], id="whiteout of the folder"),
        pytest.param(Node("/m/.wh..wh..opq", "file"), ["/m/v", "/m/w"], id="opaque"),
        pytest.param(Node("/.wh..wh..opq", "file"), ["/m/v", "/m/w"], id="opaque above"),
        pytest.param(Node("/m", "folder"), [], id="folder again"),
        pytest.param(Node("/m/w2", "file"), [], id="beside it"),
        pytest.param(Node("/m/.wh.x", "file"), [], id="whiteout of another"),
        pytest.param(Node("/m/w/x", "file"), [], id="below a file, which is none then"),
    ],
)
def test_hidden(node: Node, hidden: list[str]) -> None:
    """A layer above hides what it has in place of a file, of one of its folders, or as a whiteout of them."""
    found = view([BELOW, (2, False, [node])])
    assert found.hidden == tuple(Hidden(path, 2) for path in hidden)
    assert set(found.files) == {"/m/v", "/m/w"} - set(hidden)


def test_upper_checkpoint_layer_counts() -> None:
    """Of two layers of weights the upper one's file is seen, and nothing is hidden by that; a chown copies so."""
    other = Known(3, None)
    found = view([BELOW, (3, True, [Node("/m/w", "file", other)])])
    assert found.files == {"/m/w": other, "/m/v": V} and found.hidden == ()


def test_put_back() -> None:
    """What a layer hides and a later layer of weights has again is seen."""
    found = view([BELOW, (2, False, [Node("/m/.wh.w", "file")]), (3, True, [Node("/m/w", "file", W)])])
    assert set(found.files) == {"/m/w", "/m/v"} and found.hidden == ()


def test_hard_links() -> None:
    """A hard link is the file that it names."""
    found = view([(0, True, [Node("/m/w", "file", W), Node("/m/link", "hardlink", None, "/m/w")])])
    assert found.files == {"/m/w": W, "/m/link": W}


def test_whiteouts_of_its_own_layer() -> None:
    """A whiteout takes away what lower layers have, not what its own layer has."""
    nodes = [Node("/m/.wh..wh..opq", "file", Known(0, None)), Node("/m/new", "file", W)]
    assert set(view([BELOW, (2, True, nodes)]).files) == {"/m/new"}
