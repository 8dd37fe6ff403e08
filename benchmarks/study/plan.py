"""What evidence.py runs, the most telling first, and what it chooses on the selection split.

The order:
1. Whole detectors with softmax cross-entropy (CE): the baseline, and the common detectors on whose
   cached RoI features second stages are trained.
2. Second stages with cosine CE at every scale s. Choice: the s of the highest AP on the selection
   split, with which all cosine losses go on. It is tuned for the baseline, so that margins have
   nothing to gain from a badly chosen s.
3. CE and IGAM {mean, none} as second stages; cosine CE and IGAM {mean, none} as whole detectors.
4. IGAM in the other readings and shrinkages as second stages. Choice: the pair of the highest AP
   on the selection split.
5. C2AM, Seesaw, EQLv2, balanced softmax and CE with repeat-factor sampling as second stages.
6. IGAM in the chosen pair: with the opposite sign (and where margins are largest, "ratio" with
   every shrinkage, too), with repeat-factor sampling beside cosine CE with it, at every s; where
   the smallest s is chosen, also at half of it, with cosine CE; whole detectors of the chosen pair
   and of its opposite.

A choice that was made is kept (choices.py), though more seeds may say another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from igam_d2.functional import READINGS

__all__ = [
    "BELOW",
    "CACHED",
    "FULL",
    "GRID",
    "READINGS",
    "SCALES",
    "SHRINKAGES",
    "Choice",
    "Method",
    "Step",
    "cosine_ce",
    "igam",
    "softmax_ce",
    "steps",
]

FULL, CACHED = "full", "cached"
SCALES = (10, 20, 30, 40, 50)
BELOW = 5  # tried too, without being a choice, where the smallest is the best
SHRINKAGES = ("none", "floor", "oas")
GRID = tuple((reading, shrinkage) for reading in READINGS for shrinkage in SHRINKAGES)
FIRST = ("mean", "none")
# LVIS repeats the classes of up to 100 training images: 0.001 of its 100,170.
REPEATED_IMAGES = 100


@dataclass(frozen=True)
class Method:
    """A loss with its constants, as options of the config; `repeats` with repeat-factor sampling"""

    name: str
    opts: tuple[str, ...]
    repeats: bool = False

    def with_repeats(self) -> "Method":
        return Method(f"{self.name}_rfs", self.opts, True)


@dataclass(frozen=True)
class Choice:
    """What was chosen on the selection split; None is not chosen yet."""

    scale: int | None = None
    reading: str | None = None
    shrinkage: str | None = None

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.reading, self.shrinkage) if part) or (
            f"s = {self.scale}"
        )


@dataclass(frozen=True)
class Step:
    """Runs of equal rank, (kind, method) in their order; `candidates` of which the one is chosen
    afterwards whose method has the highest mean AP on the selection split."""

    title: str
    runs: tuple[tuple[str, Method], ...]
    candidates: dict[Choice, Method] = field(default_factory=dict)


def _loss(name: str, **constants: object) -> tuple[str, ...]:
    node = "MODEL.ROI_BOX_HEAD.CLS_LOSS"
    opts = [f"{node}.NAME", name]
    for key, value in constants.items():
        opts += [f"{node}.{name}.{key.upper()}", str(value)]
    return tuple(opts)


def _amounts(reading: str, shrinkage: str) -> tuple[str, ...]:
    return ("MODEL.IGAM.NORMALIZATION", reading, "MODEL.IGAM.SHRINKAGE", shrinkage)


# Of losses without margins, whose information amounts are only looked at: not left to the
# library's defaults, which this experiment is to settle
LOOKED_AT = _amounts("mean", "oas")


def softmax_ce() -> Method:
    return Method("softmax_ce", _loss("SoftmaxCELoss") + LOOKED_AT)


def cosine_ce(scale: int) -> Method:
    opts = _loss("CosineCELoss", scale=float(scale)) + LOOKED_AT
    return Method(f"cosine_ce_s{scale}", opts)


def igam(reading: str, shrinkage: str, scale: int, *, opposite: bool = False) -> Method:
    constants = {"scale": float(scale), "margin_sign": -1 if opposite else 1}
    suffix = "_opposite" if opposite else ""
    name = f"igam_{reading}_{shrinkage}_s{scale}{suffix}"
    return Method(name, _loss("IGAMLoss", **constants) + _amounts(reading, shrinkage))


def _others(scale: int) -> list[Method]:
    return [
        Method(f"c2am_s{scale}", _loss("C2AMLoss", scale=float(scale)) + LOOKED_AT),
        Method("seesaw", _loss("SeesawLoss") + LOOKED_AT),
        Method("eqlv2", _loss("EQLv2Loss") + LOOKED_AT),
        Method("balanced_softmax", _loss("BalancedSoftmaxLoss") + LOOKED_AT),
        softmax_ce().with_repeats(),
    ]


def steps(choice: Choice) -> list[Step]:
    """All steps that the choices so far say."""

    def of(kind: str, methods: Sequence[Method]) -> tuple[tuple[str, Method], ...]:
        return tuple((kind, method) for method in methods)

    cosines = {Choice(scale): cosine_ce(scale) for scale in SCALES}
    planned = [
        Step("softmax CE, the common detectors", of(FULL, [softmax_ce()])),
        Step("the scale, with cosine CE", of(CACHED, list(cosines.values())), cosines),
    ]
    if (s := choice.scale) is None:
        return planned
    first = igam(*FIRST, s)
    grid = {Choice(s, *pair): igam(*pair, s) for pair in GRID}
    rest = [method for method in grid.values() if method != first]
    planned += [
        Step("CE and IGAM as second stages", of(CACHED, [softmax_ce(), first])),
        Step("cosine CE and IGAM as whole detectors", of(FULL, [cosine_ce(s), first])),
        Step("readings and shrinkages", of(CACHED, rest), grid),
        Step("the other losses", of(CACHED, _others(s))),
    ]
    if choice.reading is None:
        return planned
    best = choice.reading, choice.shrinkage
    scales = [igam(*best, scale) for scale in SCALES if scale != s]
    if s == min(SCALES):
        scales += [cosine_ce(BELOW), igam(*best, BELOW)]
    opposite = igam(*best, s, opposite=True)
    # The sign where the margins are largest, too, whatever the shrinkage takes for information
    signs = dict.fromkeys(
        [opposite, *(igam("ratio", shrinkage, s, opposite=True) for shrinkage in SHRINKAGES)]
    )
    # Cosine CE with the sampling too, without which it would be the margins' doing
    sampled = [igam(*best, s).with_repeats(), cosine_ce(s).with_repeats()]
    whole = [igam(*best, s)] if best != FIRST else []
    return [
        *planned,
        Step(
            "the chosen reading: sign, sampling, scale",
            of(CACHED, [*signs, *sampled, *scales]),
        ),
        Step("the chosen reading as whole detectors", of(FULL, [*whole, opposite])),
    ]
