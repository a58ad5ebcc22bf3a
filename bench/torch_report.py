"""The table of ``python -m bench torch``."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.measure import spread
from bench.torch_setting import Results


class Target(NamedTuple):
    """What a figure must be, and should be. ``most``: no more than ``bound`` instead of no less."""

    name: str
    bound: float | None
    goal: float | None = None
    most: bool = False
    unit: str = ""


TARGETS = [
    Target("epoch1_vs_plain", 40),
    Target("epoch1_vs_obstore", None, goal=0.9),
    Target("epoch2_vs_local", 0.8, goal=1.0),
    Target("loader_epoch2_vs_local", 5, goal=8),
    Target("cold_cache_vs_disk", 0.8),
    Target("first_batch_s", 2, most=True, unit=" s"),
    Target("worker_mb_over_plain", 30, most=True, unit=" MB"),
]
ALSO = {
    "epoch3_vs_local": "",
    "loader_epoch1_vs_obstore": "",
    "loader_epoch2_vs_local_joined": "",
    "loader_epoch2_vs_local_4k": "",
    "loader_cold_cache_vs_disk": "",
    "loader_first_batch_s": " s",
    "accelerate_main_growth_mb": " MB in 20 epochs",
    "loader_main_growth_mb": " MB in 20 epochs",
    "local_main_growth_mb": " MB in 20 epochs",
    "disk_mb_per_s": " MB/s, 64 readers, cold",
}


def show(results: Results) -> dict[str, Any]:
    """Prints the figures beside their targets; all of them by name, None where there is none."""
    print(f"\n{'arm, epoch':18} {'samples/s: median (min..max)':32} requests a sample")
    for label, rates in results.rates.items():
        if rates:
            print(f"{label:18} {spread(rates):32} {spread(results.gets[label])}")
    print()
    for target in TARGETS:
        print(f"{target.name:28} {_verdict(target, results.figures.get(target.name))}")
    for name, unit in ALSO.items():
        if name in results.figures:
            print(f"{name:28} {results.figures[name]:.3g}{unit}")
    for message in results.failures:
        print(f"failed: {message}")
    missing: dict[str, Any] = {target.name: None for target in TARGETS}
    return {
        **missing,
        **results.figures,
        "samples_per_s": {label: rates for label, rates in results.rates.items() if rates},
        "gets_per_sample": {label: gets for label, gets in results.gets.items() if gets},
        "failures": results.failures,
    }


def _verdict(target: Target, figure: float | None) -> str:
    parts = []
    if target.bound is not None:
        parts.append(f"{'at most' if target.most else 'at least'} {target.bound:g}")
    if target.goal is not None:
        parts.append(f"goal {target.goal:g}")
    wanted = ", ".join(parts)
    if figure is None:
        return f"{'-':>8}   ({wanted})"
    met = target.bound is None or (figure <= target.bound if target.most else figure >= target.bound)
    return f"{figure:8.3g}{target.unit}   ({wanted}){'' if met else '   NOT MET'}"
