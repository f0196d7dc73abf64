"""The words a recipe may use, with their defaults and the reasons for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

# These classes are also the schema that Hydra checks a recipe against, which is why the annotations are
# the ones OmegaConf understands (Optional[int], not int | None) and why they are not frozen: OmegaConf
# takes a frozen dataclass as read-only and then refuses every override.

MISSING: Any = "???"  # OmegaConf's mark for a value that the user must give


@dataclass
class Source:
    """The pair that the run starts from."""

    path: str = MISSING  # folder, prefix, or any file of the pair
    inputs: dict[str, str] = field(default_factory=dict)  # data field -> tensor; {} finds a single input itself
    feeds: dict[str, Any] = field(default_factory=dict)  # tensor -> value, or tensor -> {train: v, eval: v}
    dropout: bool = True  # false switches off dropout that is baked into the source, in training too
    # [regex, replacement] pairs: what `re.sub` makes of a variable's name in the graph (or of the key that the graph's
    # own Saver has for it), one pair after the other, is its key in the checkpoint.
    rename: list[Any] = field(default_factory=list)
    weights: str = "saved"  # averages: variables start from their exponential moving averages, as far as there are any
    allow_missing: list[str] = field(default_factory=list)  # regexes of whole names that the checkpoint may lack
    allow_nonfinite: bool = False  # go on where weights are NaN or Inf
    trust: Any = False  # a list of ops opens those that finetune refuses; true opens every op


@dataclass
class Head:
    """The new layers behind a cut."""

    kind: str = "linear"
    classes: Optional[int] = None  # None: as many as the data has
    # softmax: one class each; sigmoid: any number of classes each; squared, absolute, huber: numbers
    loss: str = "softmax"
    labels: Optional[str] = None  # the column of the examples that it learns; None: data.labels
    pool: str = "avg"  # what happens to a cut with space or time left in it: avg, max or flatten
    name: str = "head"  # the scope of the new variables and tensors


@dataclass
class Data:
    """The examples, and how one of them is prepared for the source's input."""

    kind: str = "images"
    path: Optional[str] = None  # images: a folder with one folder per class; arrays: a .npz file
    eval_path: Optional[str] = None  # examples to evaluate on; None holds some of `path` out
    holdout: float = 0.2  # the share held out, chosen by a hash of each file's content
    preprocess: str = MISSING  # no default: the wrong one costs accuracy and never fails
    image_size: Optional[list[int]] = None  # [height, width]; None: what the input placeholder says
    labels: str = "labels"  # arrays: the name of the array of labels


@dataclass
class Train:
    """How long, in what portions, and by which rule the variables change."""

    steps: Optional[int] = None  # one of steps and epochs
    epochs: Optional[float] = None
    batch_size: int = 32
    optimizer: str = "adam"  # a Keras optimizer by name
    learning_rate: float = 1e-3
    schedule: str = "constant"  # of the learning rate over all steps: constant, linear, cosine, exponential or step
    schedule_end: float = 0.0  # the share of the rate at the end, for linear, cosine and exponential
    decay_steps: list[Any] = field(default_factory=list)  # for step: after which steps; below 1: shares of all steps
    decay_rate: float = 0.1  # what the rate is multiplied by after each of them
    warmup_steps: int = 0  # over which the learning rate rises to its value
    clip_norm: Optional[float] = None  # the most that all gradients together may measure
    optimizer_args: dict[str, Any] = field(default_factory=dict)  # further arguments of that optimizer
    accumulate: int = 1  # in how many portions the batch is computed, one after the other: less memory, the same step
    ema: Optional[float] = (
        None  # decay of moving averages of what learns; evaluation and the pair take them, e.g. 0.999
    )
    precision: str = "float32"  # of products and convolutions in a step: or mixed_bfloat16, mixed_float16
    xla: bool = False  # compile the step with XLA
    log_every_steps: int = 10


@dataclass
class Eval:
    """When the held-out examples are looked at; always once before step 1 and once at the end."""

    every_steps: Optional[int] = None  # None: once an epoch
    batch_size: Optional[int] = None  # None: as in training


@dataclass
class Checkpoint:
    """When the run is saved for resuming, and which of the saves are kept."""

    every_steps: Optional[int] = None
    every_minutes: Optional[float] = 10.0  # time lost to a kill is bounded by default
    keep: int = 5  # the newest ones (the Saver's max_to_keep)
    keep_every_hours: Optional[float] = None  # and one for each so many hours (keep_checkpoint_every_n_hours)


@dataclass
class Run:
    """Where the run leaves what it makes, and the seed of everything random in it."""

    dir: Optional[str] = None  # None: runs/<recipe>, with a digest of the overrides if there are any
    seed: int = 0


@dataclass
class Recipe:
    """One experiment: source, cut, what learns, head, data, training."""

    name: str = MISSING  # the file's name; filled in by the door
    source: Source = field(default_factory=Source)
    cut: str = MISSING  # the tensor at which the source ends for us
    stop_gradient: Any = True  # True: at the cut; False: nowhere; or a list of tensors
    learn: list[Any] = field(default_factory=list)  # [regex, rate] pairs for variables of the source
    head: Head = field(default_factory=Head)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    run: Run = field(default_factory=Run)
