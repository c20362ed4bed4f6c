import pytest

torch = pytest.importorskip("torch")

from models.encoder import CHUNK, SLOW_MEMORY_EVENTS, LinearRecurrentUnit, SequenceEncoder, scan  # noqa: E402
from models.losses import basket_cross_entropy  # noqa: E402


def encoder(seed: int = 0) -> SequenceEncoder:
    torch.manual_seed(seed)
    return SequenceEncoder(50, 3, 28, width=8, channels=16, blocks=2, dropout=0.3).double().eval()


@pytest.mark.parametrize("steps", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, CHUNK * CHUNK + 3])
def test_scan_is_the_recurrence(steps: int) -> None:
    torch.manual_seed(steps)
    modulus, phase = torch.rand(5).double(), 6 * torch.rand(5).double()
    decay = torch.stack([modulus * phase.cos(), modulus * phase.sin()])
    u = torch.randn(2, 5, 3, steps).double()
    found = torch.complex(*scan(decay, u))
    h = torch.zeros(5, 3, dtype=torch.complex128)
    for t in range(steps):
        h = torch.complex(*decay)[:, None] * h + torch.complex(u[0, ..., t], u[1, ..., t])
        assert torch.allclose(found[..., t], h, atol=1e-12)


def test_stepping_is_the_full_pass() -> None:
    model = encoder()
    rows, types, gaps = (torch.randint(0, high, (4, 75)) for high in (50, 3, 28))
    with torch.no_grad():
        full = model(rows, types, gaps)
        hidden = torch.zeros(4, model.hidden_width).double()
        for t in range(75):
            hidden, vector = model.step(hidden, rows[:, t], types[:, t], gaps[:, t])
            assert torch.allclose(vector, full[:, t], atol=1e-10)
    assert hidden.shape == (4, 2 * 2 * 16)


def test_every_input_matters_and_the_future_does_not() -> None:
    model = encoder()
    inputs = [torch.randint(0, high, (1, 30)) for high in (50, 3, 28)]
    with torch.no_grad():
        full = model(*inputs)
        for which, high in enumerate((50, 3, 28)):
            changed = [tensor.clone() for tensor in inputs]
            changed[which][0, 10] = (changed[which][0, 10] + 1) % high
            other = model(*changed)
            assert torch.equal(other[:, :10], full[:, :10])
            assert (other[:, 10:] - full[:, 10:]).abs().amax(dim=2).min() > 1e-9


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


def test_loss_by_hand() -> None:
    torch.manual_seed(0)
    vectors, items, bias = torch.randn(2, 4), torch.randn(6, 4), torch.randn(6)
    logits = vectors @ items[1:].T + bias[1:]  # row 0 is no candidate
    log_p = logits.log_softmax(dim=1)
    expected = -((log_p[0, 2] + log_p[0, 4]) / 2 + log_p[1, 0]) / 2
    found = basket_cross_entropy(vectors, items, bias, torch.tensor([0, 0, 1]), torch.tensor([3, 5, 1]))
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
