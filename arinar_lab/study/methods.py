"""How to read a study's table: what its numbers are, under which protocol they were taken, and what is missing."""

from __future__ import annotations

from .comparison import PROTOCOL, compare, mixed
from .results import DISTANCE, ERROR, HEADINGS, LEVEL, Results


def notes(results: Results) -> list[str]:
    """How to read the table."""
    report = results.any_report
    if not report:
        return ["No cell is finished."]
    said, quality = report["likelihood"], report["quality"]
    lines = [
        f"± is the 95 % t-interval of the mean over seeds (training noise); n is {len(results.plan.seeds)} where all are done."
    ]
    if any(results.values(arm, LEVEL) for arm in results.plan.arms):
        lines.append(
            "Bits/dim is of the uniformly dequantised pixels: exact as a density, a bound for the integers. 49 % of digit"
            " pixels are level 0, and this reading rewards components that are spent on filling that level's box evenly."
            " Bits/dim at Δ asks only for the probability of the grey level itself (its centre ± Δ/2). Read both."
        )
    without = [arm.name for arm in results.plan.arms if arm.likelihood == "none"]
    if without:
        lines.append(
            f"No likelihood (n/a): {', '.join(without)}. Arms are ranked by {HEADINGS[results.plan.criterion]}."
        )
    if any(results.values(arm, ERROR) for arm in results.plan.arms):
        lines.append(
            "An estimate of bits/dim comes from integrating an equation; its error is how far the mean moves when the"
            " steps are doubled."
        )
    if said["unit"] != "pixel":
        lines.append(f"Bits/dim is of the raw {said['unit']}s, not of pixels.")
    if DISTANCE in report["metrics"]:
        floor = report["metrics"][f"{DISTANCE}_floor"]
        lines.append(
            "FD, KID, precision and recall: features of a digits classifier, not Inception, so no FID."
            f" {quality['images']:,} generated against {quality['reference']:,} training images, KID on subsets of"
            f" {quality['kid_subset']}. Floor of FD: {floor:.2f}"
            f" ({quality['floor_images']} held-out images against the training images)."
        )
    speed = report.get("speed")
    if speed:
        lines.append(
            f"Speed: batch {speed['batch']} and batch 1, median of {speed['repeats']} after a warm-up,"
            f" {speed['threads']} thread(s) of {speed['device']}, {speed['precision']}, no run of ours beside it"
            f" ({_load(results)})."
        )
    missing = [
        f"{arm.name} seed {s}"
        for arm in results.plan.arms
        for s in results.plan.seeds
        if s not in results.reports[arm.name]
    ]
    if missing:
        lines.append(f"Missing: {', '.join(missing)}. Nothing may be concluded about arms with fewer than two seeds.")
    if any(effect.spread for effect in compare(results)):
        lines.append(PROTOCOL)
    if differ := mixed([r for by_seed in results.reports.values() for r in by_seed.values()]):
        lines.append(f"Caution: these runs differ in {', '.join(differ)}. Means and differences over them mix the two.")
    return lines


def _load(results: Results) -> str:
    """How busy the machine was when the speeds were taken: the load of the last minute, our own thread included."""
    loads = [
        r["speed"]["load_average"] for by_seed in results.reports.values() for r in by_seed.values() if "speed" in r
    ]
    return f"load average {min(loads):.1f} to {max(loads):.1f}"
