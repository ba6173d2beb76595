"""UnlearnRec: an encoder, trained once on made-up requests, that rewrites the embeddings for a real one."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import load_file, save_file

from expunge.engine.loop import Loop, Observers, Stream, TrainLog
from expunge.engine.method import Edit, Intention
from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError, RunError
from expunge.kept import key_of
from expunge.recommend.encoder import InfluenceEncoder
from expunge.recommend.pretraining import EncoderLoss, RequestSampler, Sampler, Validation
from expunge.recommend.rewriting import Request, RequestTriples, Rewritten, require_table, rewritten

MOST_STEPS = 2500  # of an epoch of pre-training
STAGE_D = ("base.table", "encoder.weights", "encoder.biases")


@dataclass(frozen=True)
class UnlearnRec(Edit):
    """Rewrite all embeddings by one pass of a pre-trained influence encoder, then tune for a few steps.

    Pre-training (once for a trained recommender, reused by every further request on it): the recommender is frozen;
    every `sim_epoch` epochs another request D is made up, K = the rest, and the encoder g moves down
    L = L_M + lambda_u L_u + lambda_p L_p + lambda_c L_c, where E0' = g(A(D); E0, Z), Z' = f(A(K), E0'), L_M is BPR on
    K, L_u = mean softplus(s') over D, L_p the squared distance of the kept positives' log shares to the original's, and
    L_c a contrast of the influence states with those over fewer forgotten edges. The checkpoint is the one with the
    widest gap between the scores of non-interactions and of forgotten pairs, on requests held out from training and
    with validation interactions (the release chooses on the request and test set that it reports).
    Unlearning: one pass of g with A(D) of the real request; unless `zero_shot`, training by the run's settings then
    moves the dense layers and the embeddings on L_M + lambda_u L_u + lambda_p L_p over K. What is returned is an
    ordinary recommender with new embeddings, serving K; the encoder is not part of it.

    The notes in the log say what pre-training took; until it is divided among several requests it belongs to the price.
    Tuning pushes forgotten scores down without end: after one epoch the pairs of whole users and items were ranked far
    under random ones, where a retrained model does not rank them, and `zero_shot` was nearer to it; planted pairs need
    the tuning. Reference settings: Adam, lr 1e-3, no decay, up to 256 epochs of pre-training, 1 to 3 of tuning,
    batches of 512 to 8192.

    Attributes:
        layers: L, propagations over the forgotten edges; None: as many as the recommender has, 3 where it has none.
            Source: reference code.
        dense_layers: Dense layers of the encoder. Source: reference code.
        leaky: Slope of their rectifier below 0. Source: reference code.
        overall_withdraw_rate: c, rate at which self-information is withdrawn. Source: reference code.
        readout: ``sum`` of the influence states, or the ``last`` one. Source: reference code; the paper's text.
        unlearn_layer: Propagations of the influence states over K. Source: reference code.
        pretrain_epochs: Epochs of pre-training. Source: ours (on ml-100k they cost about half a retraining; the
            authors: up to 256).
        pretrain_lr: Its learning rate. Source: reference code.
        pretrain_batch: Its batch. Source: reference code.
        pretrain_drop_rate: Share of the edges in its requests, for ``paper``. Source: reference code.
        sim_epoch: Epochs on one made-up request. Source: ours (reference code: 5, which shows a mixture few requests).
        request_sampler: ``paper``: random edges, always the same share; ``mixture``: edges, users, items and hubs of
            sizes from 0.1% to 30%, as real requests have. Source: paper; ours.
        lambda_u: Weight of the unlearning term in pre-training. Source: reference code.
        lambda_p: Weight of the preserving term, a sum over the batch, in pre-training. Source: reference code.
        lambda_c: Weight of the contrast. Source: reference code.
        align_temp: Temperature of the preserving term in pre-training. Source: reference code.
        hyper_temp: Temperature of the contrast. Source: reference code.
        unlearn_type: Unlearning term: ``v1`` softplus, ``v2`` the raw mean, without lower bound. Source: reference
            code.
        perf_degrade: Share of the starting validation recall under which pre-training ends. Source: reference code.
        zero_shot: Leave the tuning out. Source: paper.
        finetune_lambda_u: Weight of the unlearning term in tuning. Source: reference code.
        finetune_lambda_p: Weight of the preserving term in tuning. Source: reference code.
        finetune_align_temp: Temperature of the preserving term in tuning. Source: reference code.
        stored: Folder of pre-trained encoders, by recommender and settings; None keeps none. Source: ours.
    """

    paper: ClassVar[str] = "Chen, Xia, Huang, Pre-training for Recommendation Unlearning, SIGIR 2025 (arXiv 2505.22649)"
    intention: ClassVar[Intention] = "removal"

    layers: int | None = None
    dense_layers: int = 2
    leaky: float = 0.99
    overall_withdraw_rate: float = 0.1
    readout: Literal["sum", "last"] = "sum"
    unlearn_layer: int = 0
    pretrain_epochs: int = 5
    pretrain_lr: float = 1e-3
    pretrain_batch: int = 1024
    pretrain_drop_rate: float = 0.2
    sim_epoch: float = 1.0
    request_sampler: Sampler = "mixture"
    lambda_u: float = 1.0
    lambda_p: float = 0.005
    lambda_c: float = 1e-3
    align_temp: float = 1.0
    hyper_temp: float = 1.0
    unlearn_type: Literal["v1", "v2"] = "v1"
    perf_degrade: float = 0.5
    zero_shot: bool = False
    finetune_lambda_u: float = 0.2
    finetune_lambda_p: float = 0.01
    finetune_align_temp: float = 10.0
    stored: str | None = None

    def __post_init__(self) -> None:
        rules = {
            "layers": self.layers is None or self.layers >= 0,
            "dense_layers": self.dense_layers >= 0,
            "readout": self.readout in ("sum", "last"),
            "unlearn_layer": self.unlearn_layer >= 0,
            "pretrain_epochs": self.pretrain_epochs >= 1,
            "pretrain_lr": self.pretrain_lr > 0,
            "pretrain_batch": self.pretrain_batch >= 2,
            "pretrain_drop_rate": 0 < self.pretrain_drop_rate < 1,
            "sim_epoch": self.sim_epoch > 0,
            "request_sampler": self.request_sampler in ("paper", "mixture"),
            "align_temp": self.align_temp > 0,
            "finetune_align_temp": self.finetune_align_temp > 0,
            "hyper_temp": self.hyper_temp > 0,
            "unlearn_type": self.unlearn_type in ("v1", "v2"),
            "perf_degrade": 0 <= self.perf_degrade <= 1,
        }
        weights = ("lambda_u", "lambda_p", "lambda_c", "finetune_lambda_u", "finetune_lambda_p")
        rules.update({name: getattr(self, name) >= 0 for name in weights})
        wrong = [f"{name}={getattr(self, name)!r}" for name, holds in rules.items() if not holds]
        if wrong:
            raise InputError(f"unlearnrec: out of range: {', '.join(wrong)}.")

    def apply(self, job: Any) -> Any:
        """Return the subject with rewritten embeddings, serving what is kept.

        Raises:
            InputError: A recommender without a single table of embeddings, or batches to be divided.
            RunError: Pre-training destroyed the recommender.
        """
        subject, result = job.subject, job.dropped()
        require_table(subject.model, "unlearnrec")
        model = rewritten(subject.model, subject.graph, self._fresh(subject.model, job.seed))
        self._pretrained(job, model)
        request = Request(job.forget, job.retain, result.catalogue)
        if not self.zero_shot:
            self._tune(job, model, request)
        with torch.no_grad():
            subject.model.get_parameter("table").copy_(model.changed(request)[0])
        return result

    def _fresh(self, base: Any, seed: int) -> InfluenceEncoder:
        own = int(base.origin().get("layers", 0)) or 3
        return InfluenceEncoder(
            base.users + base.items, base.get_parameter("table").shape[1],
            layers=own if self.layers is None else self.layers, dense=self.dense_layers,
            withdraw=self.overall_withdraw_rate, slope=self.leaky, start=2 * self.pretrain_lr, readout=self.readout,
            smoothing=self.unlearn_layer, seed=derive_seed(seed, "unlearnrec"),
        )  # fmt: skip

    # -- pre-training --------------------------------------------------------------------------------

    def _pretrained(self, job: Any, model: Rewritten) -> None:
        """Put pre-trained values into the encoder: those of an earlier request, or new ones."""
        file = self._file(job)
        if file is not None and file.exists():
            model.encoder.load_state_dict(load_file(file))
            log = TrainLog(notes=[f"unlearnrec: the encoder of an earlier request was used ({file.name})"])
        else:
            started = time.process_time()
            log = self._pretrain(job, model)
            seconds = time.process_time() - started
            log.notes.append(
                f"unlearnrec: pre-training took {seconds:.1f} s of processor time; it serves every further request on "
                f"the same recommender"
            )
            if file is not None:
                _write(model.encoder, file)
        job.logs.append(log)

    def _file(self, job: Any) -> Path | None:
        """Where the encoder of this recommender is kept: a key of all it depends on."""
        if self.stored is None:
            return None
        tuning = ("zero_shot", "finetune_lambda_u", "finetune_lambda_p", "finetune_align_temp", "stored")
        settings = {k: v for k, v in asdict(self).items() if k not in tuning}
        valid = None if job.held_out is None else job.held_out.digest
        key = key_of("unlearnrec", job.subject.fingerprint(), settings, valid, job.seed)
        return Path(self.stored).expanduser() / f"encoder-{key}.safetensors"

    def _pretrain(self, job: Any, model: Rewritten) -> TrainLog:
        train, batch = job.subject.served, self.pretrain_batch
        sampler = RequestSampler(train, self.request_sampler, self.pretrain_drop_rate, job.seed)
        kept = len(train) * (1 - self.pretrain_drop_rate if self.request_sampler == "paper" else 1)
        epoch = min(MOST_STEPS, max(1, round(kept / batch)))
        steps = max(1, round(self.sim_epoch * epoch))
        stretches = -(-self.pretrain_epochs * epoch // steps)
        triples = RequestTriples(sampler, steps * batch, stretches, job.seed)
        observers = Observers(progress=job.observers.progress if job.observers else None)
        if job.held_out is not None:
            validation = Validation(sampler.validation(), job.held_out, train, job.seed)
            observers.probe, observers.score = validation.probe, Validation.score
        training = Training(
            batch_size=batch, lr=self.pretrain_lr, weight_decay=0.0, schedule="constant", warmup=0.0, clip=None,
            evaluate_every=max(steps, epoch), utility_floor=self.perf_degrade, stop_below_floor=True,
        )  # fmt: skip
        loss = EncoderLoss(
            self.lambda_u, self.lambda_p, self.lambda_c, self.align_temp, self.hyper_temp, self.unlearn_type,
            ("encoder.",),
        )  # fmt: skip
        streams = {"retain": Stream(triples, torch.arange(len(triples)).view(-1, batch))}
        folder = job.folder / "pretraining" if job.folder else None
        loop = Loop(model, loss, streams, training, seed=job.seed, folder=folder, observers=observers)
        log = loop.run()
        if loop.best is not None and loop.best[0] == 0.0:
            first, last = (log.probes[i]["retain"] for i in (0, -1))
            raise RunError(
                f"unlearnrec: pre-training lowered validation recall from {first:.3f} to {last:.3f}, under "
                f"perf_degrade={self.perf_degrade} of it; lower lambda_u or pretrain_lr."
            )
        return log

    # -- the real request ----------------------------------------------------------------------------

    def _tune(self, job: Any, model: Rewritten, request: Request) -> None:
        training: Training = job.training
        if self.finetune_lambda_p and training.micro_batch not in (None, training.batch_size):
            raise InputError(
                f"unlearnrec: compares the interactions of a batch with each other, so "
                f"micro_batch={training.micro_batch} would change the method; leave it out."
            )
        steps, batch = training.total_steps(len(job.retain)), training.batch_size
        if not steps:
            return
        triples = RequestTriples(lambda _: request, steps * batch, 1, derive_seed(job.seed, "tuning"))
        loss = EncoderLoss(
            self.finetune_lambda_u, self.finetune_lambda_p, 0.0, self.finetune_align_temp, self.hyper_temp,
            self.unlearn_type, STAGE_D,
        )  # fmt: skip
        streams = {"retain": Stream(triples, torch.arange(steps * batch).view(steps, batch))}
        observers = _seen_through(job.observers, request)
        loop = Loop(model, loss, streams, training, seed=job.seed, folder=job.folder, observers=observers)
        job.logs.append(loop.run())


def _seen_through(asked: Observers | None, request: Request) -> Observers:
    """The job's observers, shown the recommender with its embeddings as they are rewritten now."""
    if asked is None or asked.probe is None:
        return asked or Observers()
    look = asked.probe

    def probe(model: Any) -> dict[str, float]:
        shown = copy.deepcopy(model.base)
        shown.get_parameter("table").copy_(model.changed(request)[0])
        return look(shown)

    return replace(asked, probe=probe)


def _write(encoder: InfluenceEncoder, file: Path) -> None:
    """Keep an encoder, in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}, temporary)
    temporary.replace(file)
