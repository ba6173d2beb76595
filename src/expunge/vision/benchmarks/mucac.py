"""MUCAC: attributes of celebrities' faces, people to be forgotten (Choi and Na 2023); the user supplies the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from expunge.errors import InputError
from expunge.report.scorecard import Published
from expunge.vision.augmentation import Augmentation
from expunge.vision.data import Images, folder_of, require_disjoint
from expunge.vision.image_files import Broken, load_images, require_files
from expunge.vision.metrics.accuracy import Accuracy
from expunge.vision.metrics.membership import Membership
from expunge.vision.metrics.nomus import NoMUS
from expunge.vision.networks import Shape
from expunge.vision.subject import Subject, small_cnn
from expunge.vision.workload import Metric, Workload

ATTRIBUTES = {"gender": 21, "smiling": 32, "young": 40}  # columns after the file name, counted from 1
VALUES = 40
BORDERS = {"test": (0, 190), "forget": (190, 1250), "retain": (1250, 4855), "holdout": (4855, 10**9)}
SIZES = {"test": 2_053, "forget": 10_135, "retain": 15_711, "holdout": 2_001}
_SOURCE = "README of ndb796/MachineUnlearning, ResNet-18, multi-label"
_PRINTED = (  # method, accuracy, forgetting score, NoMUS
    ("before", 0.8852, 0.0568, 0.8858),
    ("gold", 0.8135, 0.0436, 0.8631),
    ("fine-tune", 0.9147, 0.0708, 0.8865),
    ("CF-3", 0.9197, 0.0685, 0.8913),
    ("NegGrad", 0.4193, 0.0356, 0.6740),
    ("UNSIR, stage 1", 0.7087, 0.0324, 0.8219),
    ("UNSIR, stage 2", 0.9220, 0.0705, 0.8905),
    ("SCRUB", 0.9073, 0.0478, 0.9058),
    ("Advanced NegGrad", 0.7607, 0.0152, 0.8651),
)


def published() -> list[Published]:
    """The printed table. Original and retrained differ in their training, and SCRUB's row never ran a forget pass."""
    where = (("accuracy", "test"), ("forgetting_score", "forget"), ("nomus", "all"))
    return [
        Published(metric, split, "ResNet-18", method, value, _SOURCE)
        for method, *values in _PRINTED
        for (metric, split), value in zip(where, values, strict=True)
    ]


@dataclass(frozen=True)
class MUCAC:
    """Gender, smile and youth of CelebA-HQ faces; the people with numbers 190 to 1249 are to be forgotten.

    The pictures are for non-commercial research and not part of this package. Sets are divided by the person's
    number, so nobody is in two. Files are taken in the order of their names.

    Attributes:
        images: Folder with the pictures. Source: paper.
        identities: File with ``FILE NUMBER`` lines. Source: paper.
        attributes: File in CelebA's form: two header lines, then a file name and 40 values of -1 or 1. Source: paper.
        task: ``multi-label`` (three yes-or-no outputs), or one of ``gender``, ``smiling``, ``young``. Source: paper.
        side: Pixels of a side. Source: paper (128).
        augment: Flip, shear, scale and colour jitter in training. Source: paper.
        broken: A picture that cannot be decoded: ``stop``, or ``skip`` with a note. Source: ours.
    """

    paper: ClassVar[str] = (
        "Choi, Na, Towards Machine Unlearning Benchmarks: Forgetting the Personal Identities in Facial Recognition "
        "Systems, 2023 (arXiv 2311.02240)"
    )

    images: str
    identities: str
    attributes: str
    task: Literal["multi-label", "gender", "smiling", "young"] = "multi-label"
    side: int = 128
    augment: bool = True
    broken: Broken = "stop"

    def __post_init__(self) -> None:
        if self.task not in ("multi-label", *ATTRIBUTES):
            raise InputError(f"mucac: task={self.task!r}; multi-label, {', '.join(ATTRIBUTES)}.")

    @property
    def classes(self) -> int:
        """Outputs of the classifier."""
        return len(ATTRIBUTES) if self.task == "multi-label" else 2

    def network(self, seed: int) -> Subject:
        """An untrained network of our own, for a quick look; name a model for real work."""
        return small_cnn(Shape(3, self.classes, (32, 64, 128, 256), 128), seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`.

        Raises:
            InputError: A missing file, a malformed line, or an empty set.
        """
        folder = folder_of(self.images, "MUCAC's pictures are needed")
        persons, attributes = read_identities(Path(self.identities)), read_attributes(Path(self.attributes))
        files = sorted(persons.keys() & attributes.keys())
        if not files:
            raise InputError(f"{self.identities} and {self.attributes} have no picture in common.")
        notes: list[str] = []
        splits: dict[str, Images] = {}
        for name, (low, high) in BORDERS.items():
            mine = [f for f in files if low <= persons[f] < high]
            if not mine:
                raise InputError(f"{self.identities}: nobody has a number from {low} to {high - 1} (the {name} set).")
            paths = [folder / f for f in mine]
            if self.broken == "stop":
                require_files(paths, Path(self.identities))
            labels = [self._label(attributes[f]) for f in mine]
            people = [str(persons[f]) for f in mine]
            splits[name] = load_images(paths, labels, people, self.side, broken=self.broken, note=notes.append)
            if len(splits[name]) != SIZES[name]:
                notes.append(f"MUCAC {name}: {len(splits[name])} pictures; the published set has {SIZES[name]}.")
        require_disjoint(splits)
        metrics: list[Metric] = [Accuracy(splits=tuple(splits)), Membership(), NoMUS()]
        return Workload(
            splits["forget"], splits["retain"], splits, metrics, self.classes,
            augment=Augmentation() if self.augment else None, notes=notes, published=published(),
        )  # fmt: skip

    def _label(self, values: list[int]) -> int | list[int]:
        if self.task == "multi-label":
            return [values[column - 1] for column in ATTRIBUTES.values()]
        return values[ATTRIBUTES[self.task] - 1]


def read_identities(path: Path) -> dict[str, int]:
    """Number of the person on each picture.

    Raises:
        InputError: The file is not there, or a line is not a file name and a number.
    """
    found = {}
    for number, line in _lines(path):
        parts = line.split()
        if len(parts) != 2 or not parts[1].isdigit():
            raise InputError(f"{path}, line {number}: {line!r} is not a file name and a person's number.")
        found[parts[0]] = int(parts[1])
    return found


def read_attributes(path: Path) -> dict[str, list[int]]:
    """The 40 attributes of each picture as 0 or 1.

    Raises:
        InputError: The file is not there, its count is not that of its lines, or a line is malformed.
    """
    lines = _lines(path)
    if len(lines) < 2 or not lines[0][1].strip().isdigit():
        raise InputError(f"{path}: the first line must be the number of pictures and the second the attributes' names.")
    if int(lines[0][1]) != len(lines) - 2:
        raise InputError(f"{path}: the first line says {lines[0][1].strip()} pictures and {len(lines) - 2} follow.")
    found = {}
    for number, line in lines[2:]:
        name, *values = line.split()
        if len(values) != VALUES or set(values) - {"-1", "1"}:
            raise InputError(f"{path}, line {number}: a file name and {VALUES} values of -1 or 1 are needed.")
        found[name] = [int(v == "1") for v in values]
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8.") from None
    return [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
