"""Trains the pairs of the insertion bed and draws their dose-response.

    python scripts/hubble_dose.py --seeds 0 1 --out docs/images/hubble-dose.png

Writes a page (``.html``), and, for ``.png``, a picture of it, which needs Chromium. Models are kept in --cache, so the
same command resumes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from expunge.errors import ExpungeError, InputError
from expunge.language.hubble_probes import id_probe
from expunge.language.hubble_world import RECIPE, hubble_world
from expunge.language.insertion_pair import make_pair
from expunge.language.insertion_plot import dose_page, dose_table
from expunge.language.insertion_response import Dose, dose_response


def measured(seeds: list[int], passes: list[float], cache: Path) -> dict[str, list[list[Dose]]]:
    """Dose-responses of the standard models after all passes, and of the perturbed ones after each number of them."""
    last = max(passes)
    found: dict[str, list[list[Dose]]] = {"standard": []}
    for epochs in passes:
        for seed in seeds:
            world = hubble_world(seed=seed)
            texts = {d: world.texts(d=d) for d in RECIPE}
            training = replace(world.target_training, epochs=epochs)
            pair = make_pair(world, cache, seed=seed, training=training, standard=epochs == last, retrain=False)
            named = f"{epochs:g} pass{'es' if epochs != 1 else ''}"
            for label, ref in (("standard", pair.standard), (f"perturbed, {named}", pair.perturbed)):
                if ref is not None:
                    read = label != "standard"
                    response = dose_response(ref.load(), texts, epochs=epochs, read=read, secret=id_probe, seed=seed)
                    found.setdefault(label, []).append(response)
            print(f"seed {seed}, {named}: done, {time.process_time():.0f} s of processor time", file=sys.stderr)
    return found


def draw(page: str, out: Path) -> None:
    """Write the page, or a picture of it.

    Raises:
        InputError: A picture is asked for and there is no Chromium.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix != ".png":
        out.write_text(page, encoding="utf-8")
        return
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    if browser is None:
        raise InputError(
            f"{out}: drawing a PNG needs Chromium, which is not on the PATH; ask for an .html file instead."
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "page.html"
        source.write_text(page, encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=2",
            "--window-size=1060,312", f"--screenshot={out.resolve()}", source.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)


def main() -> int:
    """Read the command line, measure, draw, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of insertion and weights")
    parser.add_argument("--passes", type=float, nargs="+", default=[1.0, 3.0], help="passes over the stream")
    parser.add_argument("--cache", type=Path, default=Path("runs/hubble-dose"), help="where models are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/hubble-dose/dose.html"), help="page, or .png picture")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        curves = measured(given.seeds, given.passes, given.cache)
        draw(dose_page(curves), given.out)
    except ExpungeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(dose_table(curves, ("loss", "min_k", "min_k_plus_plus"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
