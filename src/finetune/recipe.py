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
class Reuse:
    """The rows of the source's old head with which a linear head starts where both know a class by the same name."""

    kernel: Optional[str] = None  # a tensor of the checkpoint, such as fc8/weights; None: every class starts anew
    bias: Optional[str] = None
    labels: Any = None  # the old classes in their order: a list, or a file with one a line


@dataclass
class Distill:
    """The old task, kept by learning what the source said (Li and Hoiem 2016, "Learning without forgetting")."""

    tensor: Optional[str] = None  # the old logits, such as fc8:0; None: nothing is kept
    weight: float = 1.0  # what they count for in the loss
    temperature: float = 2.0  # by which the logits are divided: higher, and small probabilities count more


@dataclass
class Head:
    """The new layers behind a cut."""

    # linear, mlp (hidden layers), conv (1×1 convolutions on a map, then its mean), or a function of yours, mine:gated,
    # which is given width, outputs and hidden (see finetune.engine.own_heads)
    kind: str = "linear"
    hidden: list[int] = field(default_factory=list)  # the widths of the layers before the last, for mlp and conv
    dropout: float = 0.0  # the share of what each layer reads that is dropped in training
    cut: Optional[str] = None  # the tensor that it stands on; None: the recipe's cut
    classes: Optional[int] = None  # None: as many as the data has
    # softmax: one class each; sigmoid: any number of classes each; squared, absolute, huber: numbers
    loss: str = "softmax"
    objective: Optional[str] = None  # mine:losses, lessened in its place in training: (logits, targets) -> losses
    label_smoothing: float = 0.0  # the share of each target that goes to all classes, in training
    class_weights: Any = None  # balanced, or a weight for each class by name: what its examples count, in training
    focal: float = 0.0  # gamma of the focal loss: how much less examples count that are right already, in training
    weight: float = 1.0  # what it counts for in the loss of several heads
    labels: Optional[str] = None  # the column of the examples that it learns; None: data.labels
    reuse: Reuse = field(default_factory=Reuse)
    pool: str = "avg"  # over what space or time is left in the cut: avg, max or flatten; none, for a head of yours
    name: str = "head"  # the scope of the new variables and tensors


@dataclass
class Lora:
    """Frozen matrices that learn through two small ones beside them, whose product is added (Hu et al. 2021)."""

    match: list[str] = field(default_factory=list)  # regexes of whole names; the rest of the source is then frozen
    rank: int = 8  # the columns of the first small matrix, the rows of the second
    alpha: float = 16.0  # alpha / rank times their product is added, so that another rank asks for no other rate


@dataclass
class Augment:
    """How training examples are varied, anew in every epoch. None: as the preset has it, or not at all."""

    preset: Optional[str] = None  # light, medium or strong; what is given beside it counts instead of its own
    crop: Optional[list[float]] = None  # [least, most] share of the area of a random rectangle; [1, 1]: no crop
    pad_crop: Optional[int] = None  # moved by up to so many pixels, for small images
    flip: Optional[bool] = None  # left to right
    flip_vertical: Optional[bool] = None
    rotate: Optional[float] = None  # by up to so many degrees
    rand_augment: Any = None  # {layers: 2, magnitude: 9}: so many of fourteen changes, of a magnitude up to 10
    colour: Any = None  # {brightness, contrast, saturation, hue: up to this share}, or a number for the first three
    grey: Optional[float] = None  # the probability that an image loses its colours,
    blur: Optional[float] = None  # its sharpness,
    erase: Optional[float] = None  # or a rectangle
    mask_time: Optional[float] = None  # arrays: the most of axis 0 of a row that a stripe hides,
    mask_frequency: Optional[float] = None  # and of axis 1


@dataclass
class Data:
    """The examples, and how one of them is prepared for the source's input."""

    kind: str = "images"  # images, arrays, tfrecord, csv, tfds, python, synthetic
    # images: a folder with one folder per class, or a .csv or .jsonl file with the columns `file` and data.labels;
    # arrays: a .npz file, a .npy file, or a folder of those; tfrecord: a file, a folder or a pattern;
    # csv: a .csv, .tsv or .jsonl file; tfds: NAME or NAME:SPLIT; python: module:function
    path: Optional[str] = None
    eval_path: Optional[str] = None  # examples to evaluate on; None holds some of `path` out
    holdout: float = 0.2  # the share held out, chosen by a hash of each file's content
    group: Optional[str] = None  # a column, or a regex on the files' names: all of a group go to the same side
    preprocess: str = MISSING  # no default: the wrong one costs accuracy and never fails
    image_size: Optional[list[int]] = None  # [height, width]; None: what the input placeholder says
    labels: str = "labels"  # the column of labels; where there is none of that name, `label`
    classes: Optional[list[str]] = None  # the names of the classes in their order; None: alphabetical, or numbers
    columns: dict[str, Any] = field(default_factory=dict)  # input -> the column, feature or columns that fill it
    args: dict[str, Any] = field(default_factory=dict)  # of the function of kind python, or of tfds.data_source
    balance: str = "none"  # sampling: every class is trained on equally often
    pad: dict[str, Any] = field(default_factory=dict)  # input -> what rows of different lengths are filled up with; 0
    bucket: list[int] = field(default_factory=list)  # the lengths they are filled up to; []: that of the longest
    lengths: dict[str, str] = field(default_factory=dict)  # input -> the input that takes the lengths of its rows
    eval_crop: Optional[float] = None  # look at this share of an image's sides, in its middle; None: at all of it
    augment: Augment = field(default_factory=Augment)


@dataclass
class Plateau:
    """When the learning rate falls that has `schedule: plateau`."""

    patience: int = 2  # evaluations without progress
    factor: float = 0.5  # what is left of the rate


@dataclass
class Train:
    """How long, in what portions, and by which rule the variables change."""

    steps: Optional[int] = None  # one of steps and epochs
    epochs: Optional[float] = None
    batch_size: int = 32
    optimizer: str = "adam"  # a Keras optimizer by name
    learning_rate: float = 1e-3
    schedule: str = "constant"  # of the rate: constant, linear, cosine, exponential or step over all steps; plateau
    schedule_end: float = 0.0  # the share of the rate at the end, for linear, cosine and exponential
    decay_steps: list[Any] = field(default_factory=list)  # for step: after which steps; below 1: shares of all steps
    decay_rate: float = 0.1  # what the rate is multiplied by after each of them
    plateau: Plateau = field(default_factory=Plateau)
    warmup_steps: int = 0  # over which the learning rate rises to its value
    mixup: float = 0.0  # blends examples and their targets, by a share from Beta(mixup, mixup): 0.2 is usual
    cutmix: float = 0.0  # pastes rectangles of other images, by a share from Beta(cutmix, cutmix): 1.0 is usual
    clip_norm: Optional[float] = None  # the most that all gradients together may measure
    weight_decay: Optional[float] = None  # decoupled, times the learning rate; None: what the optimizer does by itself
    decay_exclude: list[str] = field(default_factory=list)  # regexes of whole names, beside all of rank 0 and 1
    l2_sp: Optional[float] = None  # draws what learns of the source to its pretrained values, in the loss
    l2_head: Optional[float] = None  # draws the new variables to zero, in the loss
    optimizer_args: dict[str, Any] = field(default_factory=dict)  # further arguments of that optimizer
    stop_early: Optional[int] = None  # evaluations without progress after which the run ends; None: never
    # When a loss or a gradient is NaN or Inf: stop, or rollback, which goes back to the newest checkpoint with half the
    # learning rate, three times at most. With checkpoint.every_minutes, where it goes back to depends on the clock.
    on_nan: str = "stop"
    accumulate: int = 1  # in how many portions the batch is computed, one after the other: less memory, the same step
    ema: Optional[float] = (
        None  # decay of moving averages of what learns; evaluation and the pair take them, e.g. 0.999
    )
    precision: str = "float32"  # of products and convolutions in a step: or mixed_bfloat16, mixed_float16
    xla: Optional[bool] = None  # compile the step with XLA; None: by engine.mode
    log_every_steps: int = 10


@dataclass
class Until:
    """What ends a phase; of several that are given, whichever comes first."""

    step: Optional[int] = None  # both are counted from the beginning of the run
    epoch: Optional[float] = None
    plateau: Optional[int] = None  # so many evaluations in a row, none of them better than the best before
    metric: Optional[str] = None  # of the held-out examples, which a plateau is one of; None: eval.metric


@dataclass
class Phase:
    """A part of the training. What it does not say is as in the rest of the recipe, but for `until`."""

    name: str = MISSING
    until: Until = field(default_factory=Until)  # the last phase has none: it goes on to the end of the run
    stop_gradient: Any = None
    learn: Optional[list[Any]] = None
    learning_rate: Optional[float] = None
    schedule: Optional[str] = None  # over the steps of the phase
    warmup_steps: Optional[int] = None
    optimizer: Optional[str] = None
    optimizer_args: Optional[dict[str, Any]] = None  # None: train's where the optimizer is train's, none otherwise


@dataclass
class Eval:
    """When the held-out examples are looked at; always once before step 1 and once at the end."""

    every_steps: Optional[int] = None  # None: once an epoch
    batch_size: Optional[int] = None  # None: as in training
    metrics: list[str] = field(default_factory=list)  # by name, the one to remember first; [] for the usual ones
    probe: bool = True  # compare with a linear probe of the pretrained features
    old_head: Optional[str] = None  # a tensor behind the cut, to see how far training moves what the source could do
    metric: str = "loss"  # what of an evaluation says which was the best
    goal: Optional[str] = None  # min or max, for a metric whose name does not say it
    min_delta: float = 0.0  # an improvement by more than this is progress, for train.stop_early and plateaus
    # The best evaluation's model stays as a pair in best/: after overfitting it cannot be had again, and a job that was
    # not to end has it already. It costs one more pair on disk, and the time to write it at each improvement.
    keep_best: bool = True


@dataclass
class Checkpoint:
    """When the run is saved for resuming, and which of the saves are kept."""

    every_steps: Optional[int] = None
    every_minutes: Optional[float] = 10.0  # time lost to a kill is bounded by default
    keep: int = 5  # the newest ones (the Saver's max_to_keep)
    keep_every_hours: Optional[float] = None  # and one for each so many hours (keep_checkpoint_every_n_hours)


@dataclass
class Cache:
    """What a frozen part makes of each example is computed once and kept, where the graph proves that this may be."""

    mode: str = "auto"  # where it saves time; off; require, which refuses a recipe where it cannot be
    dir: Optional[str] = None  # shared by runs; None: finetune/features in $XDG_CACHE_HOME or ~/.cache
    max_gb: float = 50.0  # of all that is kept there; what was not used for the longest goes first
    # So many fixed variations of each example, in turn, in the place of a new one in each epoch: those can be kept.
    views: Optional[int] = None
    dtype: str = "float32"  # of what is kept: or float16, half as large, at an error that the run tells


@dataclass
class Engine:
    """How TensorFlow computes, where that changes how long a run takes and the last bits of what it computes."""

    # auto: long runs measure first what is faster on this machine; default: as TensorFlow has it by itself
    mode: str = "auto"
    onednn: Optional[bool] = None  # its kernels for CPUs; None: by `mode`
    threads: Optional[int] = None  # None: by `mode`
    gpus: Optional[int] = None  # so many, or the run is refused; 0: none, even if there are some; None: what there is


@dataclass
class Run:
    """Where the run leaves what it makes, and the seed of everything random in it."""

    dir: Optional[str] = None  # None: runs/<recipe>, with a digest of the overrides if there are any
    seed: int = 0
    # Keys, or groups of them, in which a run that goes on may differ from how it began; data.path and source.path stand
    # for files whose content has changed as well.
    allow_change: list[str] = field(default_factory=list)
    # Several workers, where neither TF_CONFIG nor Slurm says who they are: HOST:PORT of each, the chief first, and
    # which of them this process is.
    workers: list[str] = field(default_factory=list)
    worker: Optional[int] = None
    wait_for_workers: float = 45.0  # seconds for which they wait for each other: with their start, a minute
    wait: bool = False  # for another process that is in the run folder, in the place of refusing to be a second one


@dataclass
class Recipe:
    """One experiment: source, cut, what learns, head, data, training."""

    name: str = MISSING  # the file's name; filled in by the door
    source: Source = field(default_factory=Source)
    cut: str = MISSING  # the tensor at which the source ends for us
    stop_gradient: Any = True  # True: at the cut; False: nowhere; or a list of tensors
    learn: list[Any] = field(default_factory=list)  # [regex, rate] pairs for variables of the source
    learn_decay: Optional[float] = None  # each layer of the source learns at so much of the rate of the next one
    lora: Lora = field(default_factory=Lora)
    head: Head = field(default_factory=Head)
    heads: dict[str, Head] = field(default_factory=dict)  # several, by name, in the place of `head`
    distill: Distill = field(default_factory=Distill)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    phases: list[Phase] = field(default_factory=list)  # parts of the training, in their order; [] is one for all of it
    eval: Eval = field(default_factory=Eval)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    cache: Cache = field(default_factory=Cache)
    engine: Engine = field(default_factory=Engine)
    # none; mirrored: all GPUs of this machine; multi_worker: several processes; auto: whichever of these there is.
    # train.batch_size is that of all together.
    distribute: str = "auto"
    run: Run = field(default_factory=Run)


def named_heads(recipe: Recipe) -> dict[str, Head]:
    """The heads by their names, which are the scopes of what they are made of."""
    return dict(recipe.heads) or {recipe.head.name: recipe.head}
