import numpy as np
import pytest

from ardmzip import codec, heatmap
from ardmzip.order import LatticeOrder


@pytest.mark.parametrize(("shape", "steps", "learn"), [((3, 40, 52), None, True), ((1, 33, 21), 5, False)])
def test_map_adds_up_to_the_file(photo, cpu, shape, steps, learn):
    rng = np.random.default_rng(4)
    planes = rng.integers(100, 140, shape).astype(np.uint8)
    planes[:, :, : shape[2] // 2] = 90  # nothing to code on the left
    container = codec.encode(planes, photo, cpu, steps, learn=learn)
    found = heatmap.code_lengths(container, planes, photo, cpu)
    coded = 8 * sum(words.nbytes for words in container.segments)
    assert found.bits.shape == shape[1:]
    assert found.bits.sum() == pytest.approx(found.level_bits.sum())
    assert coded - 72 <= found.bits.sum() <= coded + 8
    quarter = shape[2] // 4
    assert found.bits[:, :quarter].sum() < 0.5 * found.bits[:, -quarter:].sum()


def test_a_single_pixel(photo, cpu):
    planes = np.full((3, 1, 1), 7, np.uint8)
    found = heatmap.code_lengths(codec.encode(planes, photo, cpu), planes, photo, cpu)
    assert found.bits.tolist() == [[24.0]]
    assert found.level_bits.tolist() == [24.0]


def test_every_pixel_of_an_atom_is_drawn():
    planes = np.zeros((1, 11, 6), np.uint8)
    order = LatticeOrder(11, 6, 1, (1, 0))
    coder = heatmap.MappingCoder(planes, order)
    for atom in order.atoms:
        size = int(np.prod(order.lattice_shape(atom.level, atom.kind)))
        if size:
            before = coder.bits.sum()
            coder._spread(atom, np.arange(1.0, size + 1))
            assert coder.bits.sum() - before == pytest.approx(size * (size + 1) / 2)
