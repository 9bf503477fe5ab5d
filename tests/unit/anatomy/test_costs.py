from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from layerkit.anatomy import Amount, InspectedLayer, between, change, placed_well
from layerkit.oci import Digest

from .support import bare

ROLES = st.sampled_from(["base", "dependencies", "checkpoint", "code"])
LAYERS = st.lists(st.tuples(ROLES, st.integers(0, 10**9)), max_size=12).map(lambda rows: bare(*rows))


def test_code_change() -> None:
    """Code under a checkpoint: one is downloaded, both are unpacked; a node without blobs downloads both."""
    layers = bare(("base", 100), ("dependencies", 50), ("code", 1), ("checkpoint", 1000))
    move = change(layers, "code")
    assert move is not None
    assert (move.download, move.unpack, move.download_without_blobs) == (Amount(1), Amount(2002), Amount(1001))
    assert (move.downloaded, move.unpacked) == ((2,), (2, 3))
    better = change(placed_well(layers), "code")
    assert better is not None
    assert (better.download, better.unpack, better.download_without_blobs) == (Amount(1), Amount(2), Amount(1))


def test_run_above() -> None:
    """A RUN above the change is run again, so its layer is another and is downloaded; copied layers keep theirs."""
    layers = bare(("base", 100, "RUN base"), ("code", 1), ("dependencies", 50, "RUN pip"), ("checkpoint", 900, "COPY"))
    move = change(layers, "code")
    assert move is not None
    assert move.download == Amount(51) and move.downloaded == (1, 2) and move.unpacked == (1, 2, 3)


def test_no_such_role() -> None:
    """What is not there cannot change."""
    assert change(bare(("base", 1)), "checkpoint") is None


def test_placed_well_drops_what_is_there_twice() -> None:
    """Copies weigh nothing where the checkpoint is placed well, and the order within a role stays."""
    layers = bare(("checkpoint", 9), ("base", 1), ("code", 2), ("base", 3))
    copied = InspectedLayer(4, "checkpoint", True, "", Digest.of(b"x"), Digest.of(b"y"), 9, 18, again="copy")
    assert [(x.role, x.size, x.index) for x in placed_well((*layers, copied))] == [
        ("base", 1, 0), ("base", 3, 1), ("checkpoint", 9, 2), ("code", 2, 3),
    ]  # fmt: skip


def test_unknown_sizes_are_at_least() -> None:
    """A size that cannot be had makes the sum "at least", and is never guessed."""
    layers = (
        InspectedLayer(0, "code", True, "", Digest.of(b"1"), Digest.of(b"a"), 10, None),
        InspectedLayer(1, "code", True, "", Digest.of(b"2"), None, None, 30),
    )
    move = change(layers, "code")
    assert move is not None
    assert move.download == Amount(10, exact=False) and move.unpack == Amount(40, exact=False)


def test_between_shares_blobs_and_chains() -> None:
    """Layers below the first difference cost nothing; blobs above it that are there are only unpacked."""
    before = bare(("base", 1), ("code", 2), ("checkpoint", 4), names="abc")
    after = bare(("base", 1), ("code", 8), ("checkpoint", 4), names="aXc")
    move = between(before, after)
    assert (move.download, move.unpack, move.download_without_blobs) == (Amount(8), Amount(24), Amount(12))
    assert move.downloaded == (1,) and move.unpacked == (1, 2)


def test_between_counts_a_blob_once() -> None:
    """A blob that an image has twice is downloaded once and unpacked twice."""
    move = between((), bare(("code", 5), ("code", 5), names="aa"))
    assert move.download == Amount(5) and move.unpack == Amount(20)


@settings(deadline=None)
@given(LAYERS)
def test_the_same_costs_nothing(layers: tuple[InspectedLayer, ...]) -> None:
    """A node that has the image moves nothing for it."""
    move = between(layers, layers)
    assert move.download == move.unpack == move.download_without_blobs == Amount(0)


@settings(deadline=None)
@given(LAYERS, LAYERS)
def test_between_is_bounded(before: tuple[InspectedLayer, ...], after: tuple[InspectedLayer, ...]) -> None:
    """Nobody downloads more than keeping no blobs costs, nor that more than the whole image."""
    move = between(before, after)
    whole = sum(layer.size or 0 for layer in after)
    assert 0 <= move.download.bytes <= move.download_without_blobs.bytes <= whole
    assert move.unpack.bytes == 2 * move.download_without_blobs.bytes
    assert set(move.downloaded) <= set(move.unpacked)


@settings(deadline=None)
@given(LAYERS, ROLES)
def test_change_agrees_with_between(layers: tuple[InspectedLayer, ...], role: str) -> None:
    """What a change is said to cost is what the difference of the two images costs."""
    new = tuple(
        InspectedLayer(x.index, x.role, False, "", Digest.of(b"!" + str(x.diff_id).encode()),
                       Digest.of(b"!" + str(x.digest).encode()), x.size, x.unpacked)
        if x.role == role else x
        for x in layers
    )  # fmt: skip
    move = change(layers, role)
    if move is None:
        assert new == layers
    else:
        assert move == between(layers, new)


@settings(deadline=None)
@given(LAYERS)
def test_placed_well_is_never_worse_for_code(layers: tuple[InspectedLayer, ...]) -> None:
    """Placed well, new code makes a node unpack no more than before, and the image weighs the same."""
    better = placed_well(layers)
    assert sum(x.size or 0 for x in better) == sum(x.size or 0 for x in layers)
    now, then = change(layers, "code"), change(better, "code")
    assert (now is None) == (then is None)
    if now and then:
        assert then.unpack.bytes <= now.unpack.bytes
    assert placed_well(better) == better
