"""Find where the prior overrules the distilled image: how often, for which settings.

Run: python scripts/find_failures.py [--dataset NAME] [--set NAME] [--data-root FOLDER]

Sweeps noise level, guidance scale and semantic guidance on one set and one draw of
noise. An image fails in class if all judges (trained on real data) saw its class before
and none does after; in content if it is nearer to what the prior draws from the same
noise without the distilled image (the raw prior) than to that image, or if its coarse
layout is less like that image's than the raw prior's is. "VAE only" is the floor of
these shares; the raw prior's rows say what is lost if nothing is inherited.

Writes results/failures_DATASET.json, with a `table` of a row per setting and kind of
failure, and which classes became what, and a picture: book/_static/failures.webp, or
for other datasets than Fashion-MNIST results/failures_DATASET.webp.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from measure_metrics import add_arguments, load_real
from PIL import Image
from provenance import begin, find_distilled, write_result  # and bookkit

# isort: split
from bookkit.copying import wilson
from bookkit.features import find_failures
from bookkit.figures import image_grid, set_theme

from diver_lite import RecoveryConfig, load_prior, recover
from diver_lite.make.baselines import raw_prior, vae_only
from diver_lite.sets.real import describe_source


def picture_of(dataset: str) -> Path:
    """Return where the picture goes; the book shows Fashion-MNIST's."""
    if dataset == "fashion-mnist":
        return Path("book/_static/failures.webp")
    return Path(f"results/failures_{dataset}.webp")


def settings(args) -> list[tuple[str, RecoveryConfig]]:
    """Return the sweep: semantic guidance only where its window is ever reached."""
    default = RecoveryConfig(num_inference_steps=args.inference_steps)
    reached = default.phase  # of a timestep: "concrete" inside the window
    sweep = []
    for level in args.noise:
        for scale in args.scales:
            plain = replace(
                default, noise_timestep=level, guidance_scale=scale, guidance_factor=0.0
            )
            sweep.append(("SI matched", plain))
            if reached(level) != "refinement":
                factor = default.guidance_factor
                sweep.append(("SI + SG", replace(plain, guidance_factor=factor)))
    published = RecoveryConfig.published(num_inference_steps=args.inference_steps)
    return [*sweep, ("DIVER published", published)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", help="default: DATASET-dm-ipc10")
    parser.add_argument("--inference-steps", type=int, default=25)
    parser.add_argument("--noise", type=int, nargs="+", default=[300, 500, 700, 900])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 4.0])
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser)
    args = parser.parse_args()
    args.set = args.set or f"{args.dataset}-dm-ipc10"
    started = begin()
    prior = load_prior(args.prior or args.dataset)
    source = find_distilled(args.set, args.sets_folder)
    *_, judges, accuracies = load_real(args)

    raws, rows, details, pictures = {}, [], [], []
    published = RecoveryConfig.published().guidance_scale
    for scale in sorted({*args.scales, published, RecoveryConfig().guidance_scale}):
        config = RecoveryConfig(
            num_inference_steps=args.inference_steps, guidance_scale=scale
        )
        raws[scale] = raw_prior(source, prior, config, seed=args.seed, progress=False)

    def judge_setting(name, config, recovered):
        """Append the shares of all failures of one setting."""
        raw = raws[config.guidance_scale]
        tables = [
            find_failures(source, recovered, raw, judge, prior)
            for judge in judges.values()
        ]
        table = tables[0].copy()
        for column in ("class_lost", "class_gained"):
            table[column] = pd.concat([t[column] for t in tables], axis=1).all(axis=1)
        setting = {
            "setting": name,
            "noise_timestep": config.noise_timestep,
            "guidance_scale": config.guidance_scale,
            "guidance_factor": config.guidance_factor,
        }
        if name == "VAE only":
            setting |= dict.fromkeys([*setting][1:])
        if name == "raw prior":
            setting |= {"noise_timestep": None, "guidance_factor": None}
        verdicts = {
            "class lost": table["class_lost"],
            "class gained": table["class_gained"],
            "nearer raw prior": table["nearer_raw"],
            "layout lost": table["layout_lost"],
        }
        for judge, each in zip(judges, tables, strict=True):
            verdicts[f"class lost ({judge})"] = each["class_lost"]
            verdicts[f"class gained ({judge})"] = each["class_gained"]
        for failure, verdict in verdicts.items():
            if name == "raw prior" and failure in ("nearer raw prior", "layout lost"):
                continue  # it is the raw prior
            low, high = wilson(int(verdict.sum()), len(verdict))
            rows.append(
                setting
                | {
                    "failure": failure,
                    "images": len(verdict),
                    "count": int(verdict.sum()),
                    "share": verdict.mean(),
                    "low": low,
                    "high": high,
                }
            )
        lost = table[table["class_lost"]]
        became = Counter(lost["class"] + " -> " + lost["predicted_after"])
        details.append(
            setting
            | {
                "mean_layout": round(float(table["layout"].mean()), 4),
                "mean_to_source": round(float(table["to_source"].mean()), 3),
                "mean_to_raw": round(float(table["to_raw"].mean()), 3),
                "class_lost_became": dict(became.most_common()),
                "layout_lost_by_class": dict(
                    Counter(table.loc[table["layout_lost"], "class"]).most_common()
                ),
            }
        )
        shares = {k: f"{100 * v.mean():.0f}" for k, v in verdicts.items()}
        print([*setting.values()], shares, f"{time.perf_counter() - started:.0f} s")
        return table

    default = RecoveryConfig(num_inference_steps=args.inference_steps)
    judge_setting("VAE only", default, vae_only(source, prior))
    for scale in args.scales:
        config = replace(default, guidance_scale=scale)
        judge_setting("raw prior", config, raws[scale])
    for name, config in settings(args):
        recovered = recover(source, prior, config, seed=args.seed, progress=False)
        table = judge_setting(name, config, recovered)
        where = f"t {config.noise_timestep}, s {config.guidance_scale:g}"
        if name == "SI + SG":
            where += ", SG"
        if name == "DIVER published":
            where = "published"
        pictures.append((where, config, table, recovered))

    frame = pd.DataFrame(rows)
    picture = picture_of(args.dataset)
    shown = draw(source, raws, pictures, picture)
    write_result(
        f"results/failures_{args.dataset}.json",
        {
            "note": f"one draw of noise, {len(source)} images, "
            f"{args.inference_steps} instead of 50 steps: a sweep at CPU scale; low "
            "and high: 95 % Wilson interval over images",
            "data": describe_source(args.dataset, root=args.data_root),
            "set": args.set,
            "judge_test_accuracy": accuracies,
            "picture": {"file": picture.as_posix(), "shown": shown},
            "settings": details,
            "table": frame.round(4),
        },
        vars(args),
        started=started,
    )


def draw(source, raws, pictures, path: Path, columns: int = 9) -> dict:
    """Draw the clearest failures of each kind, an image at most once; say which."""
    set_theme()
    shown, strips = {}, []
    for title, verdict, key in (
        ("The prior overrides the class", "class_lost", "confidence_after"),
        ("The prior overrides the layout", "layout_lost", "layout"),
    ):
        cases = [
            (row[key], int(row["index"]), where, config, row, recovered)
            for where, config, table, recovered in pictures
            for _, row in table[table[verdict]].iterrows()
        ]
        chosen, used = [], Counter()
        for case in sorted(cases, key=lambda case: case[0]):
            _, index, where, *_ = case
            # the worst setting would fill the row alone
            if used["image", index] or used[where] >= 3:
                continue
            used["image", index] += 1
            used[where] += 1
            chosen.append(case)
        chosen = chosen[:columns]
        if not chosen:
            continue
        titles = []
        for _, _, where, _, row, _ in chosen:
            after = row["predicted_after"]
            note = f"→ {after}" if key != "layout" else f"r = {row['layout']:.2f}"
            titles.append(f"{row['class']}\n{note}\n{where.replace(', ', chr(10), 1)}")
        index = [case[1] for case in chosen]
        rows = {
            "distilled": source.images[index],
            "recovered": torch.stack([c[5].images[c[1]] for c in chosen]),
            "raw prior,\nsame noise": torch.stack(
                [raws[c[3].guidance_scale].images[c[1]] for c in chosen]
            ),
        }
        figure = image_grid(rows, titles, scale=1.0, title=title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
        strips.append(Image.open(buffer).convert("RGB"))
        shown[verdict] = [
            f"image {case[1]} ({case[4]['class']}), {case[2]}" for case in chosen
        ]
    if strips:
        size = (max(s.width for s in strips), sum(s.height for s in strips))
        canvas = Image.new("RGB", size, "white")
        top = 0
        for strip in strips:
            canvas.paste(strip, (0, top))
            top += strip.height
        canvas.save(path, quality=80, method=6)
        print(f"wrote {path}: {path.stat().st_size // 1024} kB")
    return shown


if __name__ == "__main__":
    main()
