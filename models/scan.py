"""The recurrence of the encoder over packed sequences, forward and backward, in real arithmetic."""

# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# (torch.autograd.Function declares forward and backward with any arguments, torch only a part of its types)

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function

__all__ = ["recurrence"]


def recurrence(u: Tensor, decay: Tensor, waves: Sequence[int]) -> Tensor:
    """h[t] = decay * h[t-1] + u[t] from h[-1] = 0, for every sequence of a packed batch.

    u (P, 2H): real half, then imaginary half, in the order of ``models.packing``; decay (2, H); -> h (P, 2H). One
    wave at a time and in place: a wave fits the processor's cache, where products with the powers of ``decay`` (a
    chunked scan) move 16 times the data.
    """
    return _Recurrence.apply(u, decay, waves)  # pyright: ignore[reportReturnType]  (apply is untyped)


class _Recurrence(Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, decay: Tensor, waves: Sequence[int]) -> Tensor:
        h = u.clone()
        real, imaginary = _halves(h, waves)
        decay_real, decay_imaginary = decay
        turned = -decay_imaginary
        for t in range(1, len(waves)):
            before_real, before_imaginary = real[t - 1][: waves[t]], imaginary[t - 1][: waves[t]]  # (n, H)
            real[t].addcmul_(before_real, decay_real).addcmul_(before_imaginary, turned)
            imaginary[t].addcmul_(before_real, decay_imaginary).addcmul_(before_imaginary, decay_real)
        ctx.save_for_backward(h, decay)
        ctx.waves = waves
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        h, decay = ctx.saved_tensors
        waves = ctx.waves
        grad_u = grad.clone()
        real, imaginary = _halves(h, waves)
        grad_real, grad_imaginary = _halves(grad_u, waves)
        decay_real, decay_imaginary = decay
        turned = -decay_imaginary
        sums = h.new_zeros(2, waves[1] if len(waves) > 1 else 0, len(decay_real))  # (2, n, H), a row per sequence
        for t in range(len(waves) - 1, 0, -1):
            n = waves[t]
            g_real, g_imaginary = grad_real[t], grad_imaginary[t]
            before_real, before_imaginary = real[t - 1][:n], imaginary[t - 1][:n]
            grad_real[t - 1][:n].addcmul_(g_real, decay_real).addcmul_(g_imaginary, decay_imaginary)
            grad_imaginary[t - 1][:n].addcmul_(g_imaginary, decay_real).addcmul_(g_real, turned)
            sums[0, :n].addcmul_(g_real, before_real).addcmul_(g_imaginary, before_imaginary)
            sums[1, :n].addcmul_(g_imaginary, before_real).addcmul_(g_real, before_imaginary, value=-1)
        return grad_u, sums.sum(dim=1), None


def _halves(packed: Tensor, waves: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    real, imaginary = packed.chunk(2, dim=1)
    return list(real.split(list(waves))), list(imaginary.split(list(waves)))
