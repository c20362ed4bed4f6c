import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.encoder import SLOW_MEMORY_EVENTS, Dropout, LinearRecurrentUnit, SequenceEncoder  # noqa: E402
from models.packing import Packed, pack  # noqa: E402


def encoder(seed: int = 0) -> SequenceEncoder:
    torch.manual_seed(seed)
    return SequenceEncoder(50, 3, 28, width=8, channels=16, blocks=2, dropout=0.3).double().eval()


def packed(lengths: list[int], seed: int = 0) -> tuple[Packed, list[torch.Tensor]]:
    """A batch of random events: the layout, and rows, types and gaps (P,)."""
    torch.manual_seed(seed)
    sizes = np.array(lengths)
    layout = pack(np.cumsum(sizes) - sizes, sizes)
    return layout, [torch.randint(0, high, (len(layout.events),)) for high in (50, 3, 28)]


def test_stepping_is_the_full_pass() -> None:
    model = encoder()
    layout, inputs = packed([75, 3, 1, 75, 40])
    with torch.no_grad():
        full = model(*inputs, layout.waves)
        for sequence, end in enumerate(layout.ends):
            mine = np.flatnonzero(layout.sequence == sequence)
            assert mine[-1] == end
            hidden = torch.zeros(1, model.hidden_width).double()
            for place in mine:
                hidden, vector = model.step(hidden, *(column[[place]] for column in inputs))
                assert torch.allclose(vector[0], full[place], atol=1e-10)
    assert hidden.shape == (1, 2 * 2 * 16)


def test_every_input_matters_and_neither_the_future_nor_a_neighbour_does() -> None:
    model = encoder()
    layout, inputs = packed([30, 30])
    mine = np.flatnonzero(layout.sequence == 0)
    others = torch.from_numpy(np.flatnonzero((layout.sequence == 1) | (layout.step < 10)))
    with torch.no_grad():
        full = model(*inputs, layout.waves)
        for which, high in enumerate((50, 3, 28)):
            changed = [tensor.clone() for tensor in inputs]
            changed[which][mine[10]] = (changed[which][mine[10]] + 1) % high
            other = model(*changed, layout.waves)
            assert torch.equal(other[others], full[others])
            assert (other[mine[10:]] - full[mine[10:]]).abs().amax(dim=1).min() > 1e-9


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    torch.manual_seed(0)
    layer = Dropout(0.3)
    dropped = layer(torch.ones(100_003))  # no multiple of the eight bytes of a drawn word
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(torch.ones(7)), torch.ones(7))
    x = torch.ones(1000, requires_grad=True)
    out = layer.train()(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_half_of_the_channels_remember_long() -> None:
    torch.manual_seed(0)
    unit = LinearRecurrentUnit(8, 64)
    with torch.no_grad():
        unit.memory.normal_(std=10)  # wherever training moves it
        modulus = unit.decay().square().sum(0).sqrt()
    slowest = 1 - 1 / SLOW_MEMORY_EVENTS[1]
    assert (modulus[:32] <= 1 - 1 / SLOW_MEMORY_EVENTS[0] + 1e-6).all()
    assert (modulus[32:] >= 1 - 1 / SLOW_MEMORY_EVENTS[0] - 1e-6).all()
    assert (modulus <= slowest + 1e-6).all()
