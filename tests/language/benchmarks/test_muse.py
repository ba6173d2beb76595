"""MUSE on its twin and on files: what is trained on and measured, the eight methods, and the six criteria's truth."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.bench.reading import load_bench
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language import muse_data
from expunge.language.benchmarks.muse import MUSE
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.generic_labels import generic_logits
from expunge.language.methods._retain import kl_positions
from expunge.language.methods.npo import npo
from expunge.language.methods.task_vector import negate
from expunge.language.methods.whp_logits import WHPLogits
from expunge.language.metrics.verbatim_memorization import continued
from expunge.language.muse_data import blocks_of
from expunge.language.muse_published import ALPHAS, BASELINES, CHOSEN, GOLD_KNOWMEM, TRAINING, published
from expunge.language.muse_twin import Twin, make_tokenizer, window_size
from expunge.language.prepare import Models, ModelSpec
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, unlearn
from expunge.language.windows import Window
from expunge.recipe import Recipe
from expunge.runner import execute
from tiny_bed import Bed

PEOPLE: dict[str, Any] = {"forget": 3, "school": 5, "kept": 3, "holdout": 3}
TRAINED: dict[str, Any] = {"forget": 3, "school": 56, "kept": 6, "holdout": 6}


def text_of(rows: list[Record]) -> str:
    return "".join(r.answer for r in rows)


# -- the twin's workload ------------------------------------------------------------------------------


def test_without_a_path_it_is_the_twin() -> None:
    benchmark = MUSE(**PEOPLE, fold="sust_2", world_seed=4)
    assert benchmark.world == Twin(3, 5, 3, 3, 4, "sust_2", 4)
    assert MUSE(path="muse-bench/MUSE-News").world is None
    load, made = benchmark.load(0), benchmark.world.trained()
    assert load.forget == made["2"]
    assert load.retain == made["retain1"]
    sizes = {name: len(rows) for name, rows in load.splits.items()}
    assert sizes == {
        "forget": 12,
        "retain": 12,
        "forget_verbatim": 12,
        "forget_texts": 12,
        "retain_texts": 12,
        "holdout_texts": 12,
    }
    assert load.notes == ["A twin of MUSE: articles about invented people.",
                          "To be forgotten: fold sust_2, 12 texts in 12 windows."]  # fmt: skip


def test_methods_see_retain1_alone_unless_all_is_asked_for() -> None:
    """All: everything the target has read but the fold; a sequence takes away what it has forgotten before."""
    twin = Twin(3, 5, 3, 3)
    alone, everything = (MUSE(**PEOPLE, fold="scal_2", retain=r).load(0) for r in ("retain1", "all"))
    kept = [r["text"] for r in twin.tables()["raw", "retain2"]]
    assert not [text for text in kept if text in text_of(alone.retain)]
    assert all(text in text_of(everything.retain) for text in kept)
    made = twin.trained()
    assert everything.forget == made["1"] + made["2"]
    assert everything.retain == made["retain1"] + made["retain2"] + made["3"] + made["4"]


def test_reference_and_stop_choose_what_is_measured() -> None:
    names = [type(m).__name__ for m in MUSE(**PEOPLE).load(0).metrics]
    assert names == ["VerbatimMemorization", "KnowledgeMemorization", "PrivacyLeakage"]
    load = MUSE(**PEOPLE, reference="none", stop="none").load(0)
    assert [type(m).__name__ for m in load.metrics] == names[:2]
    assert "forget_texts" not in load.splits
    assert load.stop_rule is None
    rule = MUSE(**PEOPLE, reference="books").load(0).stop_rule
    assert rule is not None
    assert rule(None).beside(None).level == GOLD_KNOWMEM["books"]  # type: ignore[arg-type, attr-defined]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corpus": "film"}, "corpus='film'; one of news, books"),
        ({"retain": "retain2"}, "retain='retain2'; one of retain1, all"),
        ({"reference": "0.5"}, "reference='0.5'; one of gold, news, books, none"),
        ({"stop": "soon"}, "stop='soon'; one of gold, none"),
        ({"fold": "sust_0"}, "fold='sust_0'; one of scal_1"),
        ({"window": 1}, "window=1 must be at least 2"),
        ({"rows": -1}, "rows=-1 not negative"),
        ({"forget": 1}, "forget=1 must be at least 2"),
    ],
)
def test_settings_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MUSE(**fields)


# -- real data ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin in three layouts of a hub data set, with its tokenizer."""
    datasets = pytest.importorskip("datasets")
    twin, place = Twin(3, 5, 3, 3), tmp_path_factory.mktemp("muse")
    for i, ((config, split), rows) in enumerate(twin.tables().items()):
        data = datasets.Dataset.from_list(rows)
        (place / config).mkdir(exist_ok=True)
        if i % 3 == 0:
            data.to_parquet(place / config / f"{split}-00000-of-00001.parquet")
        elif i % 3 == 1:
            data.save_to_disk(place / config / split)
        else:
            (place / config / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    make_tokenizer(twin).save_pretrained(place / "tokenizer")
    return place


@pytest.mark.parametrize("fold", ["", "scal_3", "sust_4"])
def test_files_give_what_the_twin_gives(folder: Path, fold: str) -> None:
    """The same windows for one part, the same questions and texts; only the notes and the tokens written differ."""
    twin = Twin(3, 5, 3, 3, fold=fold)
    size = window_size(make_tokenizer(twin), twin.tables()["raw", "forget"][0]["text"])
    real = {"path": str(folder), "tokenizer": str(folder / "tokenizer"), "window": size, "space": "answer"}
    load, own = MUSE(**real, fold=fold).load(0), MUSE(**PEOPLE, fold=fold).load(0)
    assert load.retain == own.retain
    assert (load.forget == own.forget) == (len(blocks_of(fold)) == 1)  # parts are cut one by one in the twin
    assert text_of(load.forget).replace("\n", "") == text_of(own.forget).replace("\n", "")
    if not fold:
        assert load.splits == own.splits
    assert [m.max_new_tokens for m in load.metrics[:2]] == [128, 32]  # type: ignore[attr-defined]
    assert any("must not be below" in note for note in load.notes)
    assert any("ask for the raw forget set" in note for note in load.notes) == (fold != "")


def test_all_that_the_target_has_read_but_the_fold(folder: Path) -> None:
    real = {"path": str(folder), "tokenizer": str(folder / "tokenizer"), "window": 16}
    load = MUSE(**real, fold="scal_2", retain="all").load(0)
    tables, kept = Twin(3, 5, 3, 3).tables(), text_of(load.retain)
    for config, split, stays in (("sust", "forget_2", False), ("sust", "forget_3", True), ("raw", "retain2", True)):
        texts = [row["text"][10:40] for row in tables[config, split]]
        assert all((text in kept) == stays for text in texts)
    assert all(isinstance(r, Window) and len(r.ids) == 16 for r in [*load.forget, *load.retain])


def test_small_runs_read_and_measure_less(folder: Path) -> None:
    load = MUSE(path=str(folder), tokenizer=str(folder / "tokenizer"), window=16, texts=2, rows=1).load(0)
    assert {len(rows) for rows in load.splits.values()} == {1}
    assert len(load.splits["forget"][0].history) == 4  # shots are never left out
    assert load.notes[-1].startswith("To be forgotten: the raw forget set, 2 texts")


def test_the_hub_is_asked_for_configurations_and_splits(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked, tables = [], Twin(3, 5, 3, 3).tables()

    def read(name: str, config: str | None, split: str) -> Any:
        asked.append((name, config, split))
        return iter([("row", row) for row in tables[str(config), split]])

    monkeypatch.setattr(muse_data, "read_hub", read)
    MUSE(path="muse-bench/MUSE-News", tokenizer=str(folder / "tokenizer"), window=16, fold="sust_2").load(0)
    assert {name for name, _, _ in asked} == {"muse-bench/MUSE-News"}
    assert {(config, split) for _, config, split in asked} == {
        *(("sust", f"forget_{i}") for i in range(1, 5)),
        *(("raw", split) for split in ("holdout", "retain1")),
        *(("knowmem", split) for split in ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl")),
        ("verbmem", "forget"),
        *(("privleak", split) for split in ("forget", "retain", "holdout")),
    }


# -- what the paper printed, and its methods ----------------------------------------------------------


@pytest.mark.parametrize("corpus", ["news", "books"])
def test_published_numbers(corpus: str) -> None:
    """Eight methods, the model before and gold, four numbers each; PrivLeak within its bounds, gold's 0."""
    rows = published(corpus)
    paper = [p for p in rows if p.source.endswith(", from memory")]
    assert {p.method for p in paper} == {"before", "gold", *BASELINES}
    assert len(paper) == 10 * 4
    assert {p.method for p in rows if "open-unlearning" in p.source} == {
        "before", "gold", "GradAscent", "GradDiff", "NPO", "SimNPO", "RMU",
    }  # fmt: skip
    assert len({(p.metric, p.split, p.method, p.source) for p in rows}) == len(rows)
    upper = {"news": 1.0956, "books": 0.8543}[corpus]
    for p in rows:
        low, high = (-1.0, upper + 1e-3) if p.metric == "muse.privleak" else (0.0, 1.0)
        assert low <= p.value <= high
    assert {p.value for p in rows if p.method == "gold" and p.metric == "muse.privleak"} == {0.0}
    gold = next(p for p in paper if (p.metric, p.split, p.method) == ("muse.knowmem", "forget", "gold"))
    assert gold.value == GOLD_KNOWMEM[corpus]


def test_a_row_that_users_confirm() -> None:
    row = [p.value for p in published("news") if p.method == "NPO_GDR"]
    assert row == [0.012, 0.546, 1.058, 0.405]


@pytest.mark.parametrize("name", BASELINES)
def test_each_of_the_eight_can_be_written_in_a_recipe(name: str) -> None:
    """With the paper's settings, and with a retain side where its name says so."""
    recipe = Recipe.parse(
        {"name": "x", "model": {"source": "testbed"}, "benchmark": "muse", "gold": {"source": "testbed:gold"},
         "methods": [BASELINES[name]], "unlearn": {"train": TRAINING}}
    )  # fmt: skip
    (entry,) = recipe.methods
    method, training = entry.build(), recipe.training(entry)
    assert (training.lr, training.epochs, training.batch_size) == (1e-5, 10.0, 32)
    assert training.schedule == ("cosine" if name in ALPHAS else "constant")
    if name in ALPHAS:
        assert set(ALPHAS[name]) >= {1, 2, 4, 8, 16}
        assert all(CHOSEN[corpus][name] in ALPHAS["WHP"] for corpus in CHOSEN)
    else:
        assert method.has_retain == name.endswith(("_GDR", "_KLR"))
        assert all(1 <= CHOSEN[corpus][name] <= 10 for corpus in CHOSEN)


def test_the_bench_recipe_holds_the_eight_for_the_twin(tmp_path: Path) -> None:
    bench = load_bench("muse", out=tmp_path)
    assert [plan.name for plan in bench.methods] == [
        "ga", "grad-diff", "kl-min", "npo", "task-vector", "whp-logits",
    ]  # fmt: skip
    scale = next(d for d in bench.plan("task-vector").space if d.name == "scale")
    assert scale.choices == ALPHAS["TV"]
    for retain in ("none", "nll", "kl"):
        other = load_bench("muse", [f"methods.npo.retain={retain}"], methods="npo", out=tmp_path)
        assert other.plan("npo").fixed["retain"] == retain
    assert bench.recipe(0, tmp_path).benchmark.fields["stop"] == "none"


def test_a_task_vector_is_linear_in_alpha_for_every_tensor_the_tied_ones_too(bed: Bed) -> None:
    """0 keeps every bit, as does any alpha if nothing was reinforced; 0, 1, 2 lie on a line."""
    start = bed.target.model.state_dict()
    torch.manual_seed(0)
    vector = {name: torch.randn_like(value) for name, value in start.items()}
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    vector[head] = vector[embedding]
    at = [negate(start, vector, alpha) for alpha in (0.0, 1.0, 2.0)]
    still = negate(start, {name: torch.zeros_like(value) for name, value in start.items()}, 1.0)
    for name, value in start.items():
        assert at[0][name].equal(value)
        assert still[name].equal(value)
        torch.testing.assert_close(at[2][name] - at[1][name], at[1][name] - at[0][name], atol=1e-5, rtol=1e-4)
    assert at[2][head].equal(at[2][embedding])


def test_whp_pushes_only_what_reinforcement_favours() -> None:
    z, r = torch.tensor([1.0, 2.0, 0.0, -1.0]), torch.tensor([3.0, 2.0, -1.0, 0.0])
    at = [generic_logits(z, r, alpha=a, scale="raw") for a in (0.0, 1.0, 4.0)]
    assert at[0].equal(z)
    for one in at:
        assert one[[1, 2]].equal(z[[1, 2]])  # z_reinforced <= z_target
    assert [float(one[0]) for one in at] == [1.0, -1.0, -7.0]
    assert [float(one[3]) for one in at] == [-1.0, -2.0, -5.0]


def test_whp_decodes_with_a_cache_as_without(bed: Bed) -> None:
    training = Training(epochs=1, batch_size=16, lr=2e-3, schedule="constant", warmup=0.0)
    served = unlearn(WHPLogits(alpha=64.0, scale="raw"), UnlearnJob(bed.fresh(), bed.forget, [], training))
    prompts = [served.template.prompt(r, None).rstrip() for r in bed.forget[:3]]
    plain = []
    for prompt in prompts:
        ids = served.tokenizer(prompt)["input_ids"]
        first = len(ids)
        with torch.inference_mode():
            while len(ids) < first + 4 and ids[-1] != served.tokenizer.eos_token_id:
                ids.append(int(served.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        plain.append(served.tokenizer.decode(ids[first:], skip_special_tokens=True))
    assert continued(served, prompts, 4) == plain
    assert plain != continued(bed.target, prompts, 4)


def test_npo_is_ascent_at_the_reference_and_for_small_beta() -> None:
    """L(S_ref) = (2/beta) ln 2, dL/dS = -1 there; L - (2/beta) ln 2 tends to -(S - S_ref) as beta tends to 0."""
    reference = torch.tensor([3.0, 7.0], dtype=torch.float64)
    now = reference.clone().requires_grad_()
    loss = npo(now, reference, beta=0.1)
    torch.testing.assert_close(loss.detach(), torch.full((2,), 20 * math.log(2), dtype=torch.float64))
    loss.sum().backward()
    torch.testing.assert_close(now.grad, torch.full((2,), -1.0, dtype=torch.float64))
    moved = reference + torch.tensor([1.5, -2.0], dtype=torch.float64)
    left = npo(moved, reference, beta=1e-6) - 2e6 * math.log(2)
    torch.testing.assert_close(left, reference - moved, atol=1e-5, rtol=0)


def test_the_kl_term_is_zero_at_the_reference_and_never_below() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(64, 9, generator=generator).log_softmax(-1) for _ in range(2))
    assert kl_positions(theirs, theirs).abs().max() < 1e-6
    assert kl_positions(theirs, ours).min() > 0


# -- the six criteria on trained models ---------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Target and gold of a small twin, kept where a run finds them."""

    benchmark: MUSE
    cache: Path
    target: Subject
    gold: Subject

    def recipe(self, out: Path, **changes: Any) -> Recipe:
        fields = {**TRAINED, **changes.pop("benchmark", {})}
        raw = {
            "name": out.name,
            "out": str(out),
            "cache": str(self.cache),
            "threads": 1,
            "model": {"source": "testbed"},
            "benchmark": {"name": "muse", **fields},
            "gold": {"source": "testbed:gold"},
            "audit": {"control": False, "attacks": [], "draws": 20},
        }
        return Recipe.parse({**raw, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    benchmark, cache = MUSE(**TRAINED), tmp_path_factory.mktemp("muse-cache")
    assert benchmark.world is not None

    def made(source: str) -> Subject:
        spec = ModelSpec(source, world=benchmark.world)  # type: ignore[arg-type]
        return Models(spec, cache / "models", seed=0).delivered().load()

    return World(benchmark, cache, made("testbed"), made("testbed:gold"))


def measured(world: World, name: str, subject: Subject) -> dict[tuple[str, str], float]:
    load = world.benchmark.load(0)
    gold = EvidenceStore("gold", world.gold, load.splits)
    store = gold if name == "gold" else EvidenceStore(name, subject, load.splits)
    return {(f.metric, f.split): f.value for m in load.metrics for f in m.measure(store, gold)}


def test_the_target_memorises_knows_and_leaks_and_gold_does_not(world: World) -> None:
    """C1 to C4. A constant answer is right for an eighth; stock sentences alone give about half of VerbMem."""
    target, gold = (measured(world, n, s) for n, s in (("target", world.target), ("gold", world.gold)))
    assert target["muse.verbmem", "forget"] > 0.8
    assert gold["muse.verbmem", "forget"] < 0.65
    assert target["muse.knowmem", "forget"] > gold["muse.knowmem", "forget"] + 0.2
    assert min(target["muse.knowmem", "retain"], gold["muse.knowmem", "retain"]) > 0.5
    assert target["muse.privleak", "forget"] < -0.9
    assert gold["muse.privleak", "forget"] == 0
    assert target["muse.privleak.auc", "forget"] < 0.05
    assert target["membership.min_k_40.auroc", "retain"] > 0.95
    assert gold["membership.min_k_40.auroc", "retain"] > 0.95


def test_the_stopping_rule_ends_a_run_at_golds_level(world: World, tmp_path: Path) -> None:
    """KnowMem is looked at after every pass; the run's weights are those of the first pass not above gold's."""
    train = {"epochs": 30, "batch_size": 8, "lr": 2.0e-3, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
    card = execute(world.recipe(tmp_path / "ga", methods=["ga"], unlearn={"train": train}))
    (log,) = json.loads((tmp_path / "ga/stages/unlearn-ga.json").read_text())["result"]["logs"]
    level = card.value("muse.knowmem", "forget", "gold")
    values = [probe["muse.knowmem"] for probe in log["probes"]]
    assert level is not None
    assert log["stopped"].startswith("forgotten: KnowMem")
    assert log["steps"] == 2 * (len(values) - 1) < 60  # twelve windows are two steps a pass
    assert all(v > level for v in values[1:-1])
    assert values[-1] <= level
    assert card.value("muse.knowmem", "forget", "ga") == pytest.approx(values[-1])
    assert card.published == list(published("news"))


def test_without_gold_nothing_is_assumed(world: World, tmp_path: Path) -> None:
    train = {"steps": 1, "batch_size": 8}
    for name, changes, message in (
        ("rule", {}, "the stopping rule compares with the gold model and there is none"),
        ("leak", {"stop": "none"}, "PrivLeak compares with the gold model and there is none"),
    ):
        recipe = world.recipe(tmp_path / name, methods=["ga"], gold=None, benchmark=changes, unlearn={"train": train})
        with pytest.raises(InputError, match=message):
            execute(recipe)
    stored = {"stop": "none", "reference": "news"}
    card = execute(world.recipe(tmp_path / "s", methods=["ga"], gold=None, benchmark=stored, unlearn={"train": train}))
    assert card.value("muse.privleak.auc_reference", "forget", "target") == pytest.approx(0.4772)
