import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ardmzip import order as order_module
from ardmzip.order import Atom, LatticeOrder


@st.composite
def orders(draw, longest: int = 40) -> LatticeOrder:
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    phase = draw(st.integers(0, min(height, 2) - 1)), draw(st.integers(0, min(width, 2) - 1))
    return LatticeOrder(height, width, draw(st.sampled_from([1, 3])), phase)


def dense_levels(order: LatticeOrder, image: np.ndarray) -> list[np.ndarray]:
    """Views of the image: the dense arrays of levels 0 to ``levels``."""
    views = [image]
    for level in range(order.levels):
        views.append(views[-1][order.known(level)])
    return views


@given(orders())
def test_every_pixel_is_in_one_lattice_or_the_base(order):
    count = np.zeros((order.height, order.width), dtype=int)
    views = dense_levels(order, count)
    views[-1] += 1
    for level in range(order.levels):
        for kind in range(3):
            views[level][order.lattice(level, kind)] += 1
    assert (count == 1).all()


@given(orders())
def test_shapes_and_sizes(order):
    image = np.arange(order.height * order.width).reshape(order.height, order.width)
    views = dense_levels(order, image)
    assert [view.shape for view in views] == [order.level_shape(level) for level in range(order.levels + 1)]
    assert views[-1].shape == (1, 1)
    assert views[-1][0, 0] == image[order.phase]
    assert all(view.size > 1 for view in views[:-1])
    assert len(order.atoms) == 3 * order.channels * order.levels
    sizes = order.sizes()
    assert sizes.dtype == np.int64
    assert sizes.shape == (len(order.atoms),)
    for atom, size in zip(order.atoms, sizes, strict=True):
        lattice = views[atom.level][order.lattice(atom.level, atom.kind)]
        assert lattice.shape == order.lattice_shape(atom.level, atom.kind)
        assert lattice.size == size
    assert sizes.sum() + order.channels == order.channels * image.size


@given(orders(), st.integers(1, 300))
def test_cuts(order, least):
    """Levels that add many pixels begin a stream, and what is coarser can be decoded alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "CUT", least)
        order = LatticeOrder(order.height, order.width, order.channels, order.phase)
        added = [sum(a * b for a, b in (order.lattice_shape(level, kind) for kind in range(3)))
                 for level in range(order.levels)]  # fmt: skip
        assert order.cuts == tuple(level for level in reversed(range(order.levels)) if added[level] >= least)
        for level in range(order.levels + 3):
            ends = {0} | {cut + 1 for cut in order.cuts}
            assert order.checked_level(level) == max(end for end in ends if end <= level)


def test_cuts_of_large_images():
    """The number of channels does not matter; nor, in tiny images, do levels."""
    assert LatticeOrder(181, 181, 1).cuts == ()
    assert LatticeOrder(210, 209, 3).cuts == LatticeOrder(210, 209, 1).cuts == (0,)
    assert LatticeOrder(1, 2**16, 1).cuts == (0,)
    assert LatticeOrder(2**15, 2**15, 3).cuts == (7, 6, 5, 4, 3, 2, 1, 0)
    assert LatticeOrder(1, 1, 3).cuts == ()
    assert LatticeOrder(1, 1, 3).checked_level(5) == 0


@given(orders(), st.integers(0, 2**32 - 1))
def test_scatter_and_gather_reconstruct(order, seed):
    image = np.random.default_rng(seed).integers(0, 256, (order.channels, order.height, order.width), dtype=np.uint8)
    sent = [[view.copy() for view in dense_levels(order, plane)] for plane in image]
    pieces = [sent[atom.channel][atom.level][order.lattice(atom.level, atom.kind)] for atom in order.atoms]
    restored = np.zeros_like(image)
    targets = [dense_levels(order, plane) for plane in restored]
    for channel, views in enumerate(targets):
        views[-1][...] = sent[channel][-1]
    for atom, piece in zip(order.atoms, pieces, strict=True):
        targets[atom.channel][atom.level][order.lattice(atom.level, atom.kind)] = piece
    np.testing.assert_array_equal(restored, image)


def test_geometry_by_hand():
    """5 x 4 pixels, phase (1, 0): known are rows 1, 3 and columns 0, 2."""
    order = LatticeOrder(5, 4, 3, (1, 0))
    image = np.arange(20).reshape(5, 4)
    assert order.levels == 2
    assert [order.level_phase(level) for level in range(3)] == [(1, 0), (0, 0), (0, 0)]
    assert image[order.known(0)].tolist() == [[4, 6], [12, 14]]
    assert image[order.lattice(0, 0)].tolist() == [[1, 3], [9, 11], [17, 19]]
    assert image[order.lattice(0, 1)].tolist() == [[5, 7], [13, 15]]
    assert image[order.lattice(0, 2)].tolist() == [[0, 2], [8, 10], [16, 18]]
    assert order.atoms[:5] == (Atom(1, 0, 0), Atom(1, 0, 1), Atom(1, 0, 2), Atom(1, 1, 0), Atom(1, 1, 1))
    assert order.atoms[-1] == Atom(0, 2, 2)


def test_a_single_pixel_has_no_atoms():
    order = LatticeOrder(1, 1, 3)
    assert order.levels == 0
    assert order.atoms == ()
    assert order.sizes().shape == (0,)
    assert order.sizes().dtype == np.int64


@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_two_by_two(phase):
    order = LatticeOrder(2, 2, 1, phase)
    assert order.levels == 1
    assert order.sizes().tolist() == [1, 1, 1]


def test_large_images_need_few_atoms():
    assert len(LatticeOrder(4000, 3000, 3).atoms) == 108
    assert LatticeOrder(2**31 - 1, 1, 1).levels == 31


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 1, 1),
        (1, 0, 1),
        (4, 4, 2),
        (4, 4, 1, (2, 0)),
        (4, 4, 1, (0, -1)),
        (1, 4, 1, (1, 0)),
        (4, 1, 3, (0, 1)),
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"pixel|channels|phase"):
        LatticeOrder(*arguments)


def test_levels_and_kinds_out_of_range():
    order = LatticeOrder(4, 4, 1)
    for call in (lambda: order.level_shape(3), lambda: order.level_shape(-1), lambda: order.known(2)):
        with pytest.raises(ValueError, match="level"):
            call()
    with pytest.raises(ValueError, match="kind"):
        order.lattice(0, 3)
