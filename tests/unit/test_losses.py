import pytest

torch = pytest.importorskip("torch")

from models.losses import CHUNK_POSITIONS, softmax_cross_entropy  # noqa: E402

POSITIONS = 2 * CHUNK_POSITIONS + 5


def plain(vectors: torch.Tensor, items: torch.Tensor, bias: torch.Tensor, pairs: list[list[int]]) -> torch.Tensor:
    log_p = (vectors @ items[1:].T + bias[1:]).log_softmax(dim=1)  # row 0 is no candidate
    return torch.stack([-sum(log_p[p, row - 1] for row in rows) / len(rows) for p, rows in enumerate(pairs)]).mean()


def test_value_and_gradients_are_those_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(*shape, dtype=torch.float64) for shape in ((POSITIONS, 4), (9, 4), (9,))]
    pairs = [torch.randperm(8)[: 1 + p % 3].add(1).tolist() for p in range(POSITIONS)]
    position = torch.tensor([p for p, rows in enumerate(pairs) for _ in rows])
    row = torch.tensor([row for rows in pairs for row in rows])
    mine, expected = ([tensor.clone().requires_grad_() for tensor in tensors] for _ in range(2))
    loss, slow = softmax_cross_entropy(*mine, position, row), plain(*expected, pairs)
    assert loss.item() == pytest.approx(slow.item(), rel=1e-12)
    (3 * loss).backward()
    (3 * slow).backward()
    for one, other in zip(mine, expected, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-14)
