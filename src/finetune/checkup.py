"""The story of `--check-data`: everything that is wrong with the examples, and nothing is trained or written."""

from __future__ import annotations

from finetune.errors import UserError, printable
from finetune.examples.data import Examples
from finetune.examples.kinds import read_kind
from finetune.examples.text_tables import is_table
from finetune.plan import label_columns, read_sized, settle
from finetune.recipe import Recipe, named_heads
from finetune.remote.fetching import data_at_hand
from finetune.start import start_tensorflow

BAD = 2  # the exit status if something is an error, which is that of wrong data


def check_data(recipe: Recipe) -> int:
    """Prints what is wrong, what is odd and what there is; gives the exit status.

    Raises:
      UserError: the source cannot be read, so that nobody knows which inputs the data has to fill.
    """
    if recipe.data.kind == "synthetic":
        raise UserError("recipe", "--check-data", "synthetic data is made for the source, and always good")
    source = read_sized(recipe)
    start_tensorflow()
    from finetune.examples import doctor
    from finetune.examples.batches import make_loader
    from finetune.examples.preprocess import what_is_wrong

    findings = doctor.Findings()
    heads = named_heads(recipe)
    labels = list(dict.fromkeys(label_columns(recipe, heads).values()))

    def read(path: str | None, key: str) -> Examples | None:
        if path is None:
            return None
        try:
            if recipe.data.kind != "images":
                examples = read_kind(recipe.data, path, list(source.inputs), labels, key)
                doctor.look_at_rows(examples, key, findings)
                return examples
            path = data_at_hand(path, key, with_others=is_table(path))
            files, columns = doctor.list_images(path, recipe.data, labels, key, findings)
            return doctor.look_at_images(files, columns, what_is_wrong, findings)
        except UserError as error:
            findings.errors.append(f"{error.where}: {error.what}; {error.todo}".removesuffix("; "))
            return None

    training, apart = read(recipe.data.path, "data.path"), read(recipe.data.eval_path, "data.eval_path")
    if training is not None and len(training):
        try:
            tasks, learnt, held_out = settle(source, recipe, heads, training, apart)
            doctor.look_at_classes(learnt, held_out, tasks, findings)
            make_loader(training, source.input_kinds(), recipe.data)
        except UserError as error:
            findings.errors.append(f"{error.where}: {error.what}; {error.todo}".removesuffix("; "))
    for line in findings.lines():
        print(printable(line))
    return BAD if findings.errors else 0
