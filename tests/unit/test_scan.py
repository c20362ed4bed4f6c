import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.packing import pack  # noqa: E402
from models.scan import recurrence  # noqa: E402

LENGTHS = [[1], [1, 1, 1], [2, 5, 1, 5], [40, 3, 17]]


def inputs(lengths: list[int], channels: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    torch.manual_seed(len(lengths))
    modulus, phase = torch.rand(channels).double(), 6 * torch.rand(channels).double()
    decay = torch.stack([modulus * phase.cos(), modulus * phase.sin()]).requires_grad_()
    sizes = np.array(lengths)
    waves = pack(np.cumsum(sizes) - sizes, sizes).waves
    return torch.randn(sum(lengths), 2 * channels, dtype=torch.float64, requires_grad=True), decay, waves


@pytest.mark.parametrize("lengths", LENGTHS)
def test_one_sequence_at_a_time_in_complex_numbers(lengths: list[int]) -> None:
    u, decay, waves = inputs(lengths, 5)
    sizes = np.array(lengths)
    layout = pack(np.cumsum(sizes) - sizes, sizes)
    found = torch.complex(*recurrence(u, decay, waves).chunk(2, dim=1))
    drive = torch.complex(*u.chunk(2, dim=1))
    for sequence in range(len(lengths)):
        h = torch.zeros(5, dtype=torch.complex128)
        for place in np.flatnonzero(layout.sequence == sequence):
            h = torch.complex(*decay) * h + drive[place]
            assert torch.allclose(found[place], h, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_gradient_is_that_of_finite_differences(lengths: list[int]) -> None:
    u, decay, waves = inputs(lengths, 2)
    assert torch.autograd.gradcheck(lambda a, b: recurrence(a, b, waves), (u, decay))
