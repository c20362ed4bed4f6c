"""The curve of a training: JSON lines while it runs, a picture at its end."""

import json
from pathlib import Path
from typing import Any, Final

__all__ = ["append_line", "draw", "draw_freshness"]

WIDTH: Final = 640
HEIGHT: Final = 320
MARGIN: Final = 56


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add one JSON line and flush it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def draw(log: list[dict[str, Any]], path: Path) -> None:
    """Loss and validation NDCG@10 against the epoch, as an SVG that needs nothing to be looked at."""
    loss = [(entry["epoch"], entry["loss"]) for entry in log]
    ndcg = [(entry["epoch"], entry["validation"]["ndcg"]) for entry in log if "validation" in entry]
    best = max(ndcg, key=lambda point: point[1], default=None)
    said = f"; best validation NDCG@10 {best[1]:.4f} at epoch {best[0]}" if best else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"',
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<path d="M{MARGIN} {MARGIN / 2}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}V{MARGIN / 2}" fill="none" stroke="#888"/>',
        *_series(loss, loss[-1][0], "#b35900", "loss", left=True),
        *_series(ndcg, loss[-1][0], "#1f5fa8", "validation NDCG@10", left=False),
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">epoch (of {loss[-1][0]}){said}</text>',
        "</svg>",
    ]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def draw_freshness(points: list[tuple[str, float, float, float]], path: Path) -> None:
    """NDCG@10 (lag, value, low, high) against the lag of the user's state, freshest first, as an SVG."""
    order = sorted(points, key=lambda point: -point[1])
    top = max(high for *_, high in order) * 1.08
    bottom = HEIGHT - MARGIN
    step = (WIDTH - 2 * MARGIN) / len(order)

    def height(value: float) -> float:
        return bottom - (bottom - MARGIN / 2) * value / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"',
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<path d="M{MARGIN} {MARGIN / 2}V{bottom}H{WIDTH - MARGIN}" fill="none" stroke="#888"/>',
    ]
    for n, (lag, value, low, high) in enumerate(order):
        x = MARGIN + step * (n + 0.5)
        parts += [
            f'<rect x="{x - step * 0.3:.1f}" y="{height(value):.1f}" width="{step * 0.6:.1f}" '
            f'height="{bottom - height(value):.1f}" fill="#1f5fa8"/>',
            f'<path d="M{x:.1f} {height(low):.1f}V{height(high):.1f}" stroke="#b35900" stroke-width="2"/>',
            f'<text x="{x + 4:.1f}" y="{height(high) - 4:.1f}" text-anchor="middle">{value:.3f}</text>',
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{lag}</text>',
        ]
    title = "NDCG@10 of the list shown, by the lag of the user's state behind the event (95 % intervals)"
    parts += [f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{title}</text>', "</svg>"]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _series(points: list[tuple[int, float]], last_epoch: int, colour: str, name: str, *, left: bool) -> list[str]:
    if not points:
        return []
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = (high - low) or 1.0
    bottom, top = HEIGHT - MARGIN, MARGIN / 2

    def place(epoch: int, value: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * (epoch - 1) / max(last_epoch - 1, 1)
        return f"{x:.1f},{bottom - (bottom - top) * (value - low) / span:.1f}"

    line = " ".join(place(epoch, value) for epoch, value in points)
    x, anchor = (MARGIN - 6, "end") if left else (WIDTH - MARGIN + 6, "start")
    name_x, name_anchor = (MARGIN, "start") if left else (WIDTH - MARGIN, "end")
    return [
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
        f'<text x="{x}" y="{bottom}" text-anchor="{anchor}" fill="{colour}">{low:.3f}</text>',
        f'<text x="{x}" y="{top + 8}" text-anchor="{anchor}" fill="{colour}">{high:.3f}</text>',
        f'<text x="{name_x}" y="16" text-anchor="{name_anchor}" fill="{colour}">{name}</text>',
    ]
