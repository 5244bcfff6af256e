"""`lpanas export --to hf`: a config, or a trained checkpoint, -> a Hugging Face folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ..lpa import checkpoint_folder, hf, keeper
from ..lpa.config import UserError, nearest
from ..lpa.files import writing
from ..lpa.hf_tokenizer import HfTokenizer, bytes_tokenizer, hf_tokenizer, tokenizer_beside
from ..lpa.prepare import content_of
from ..lpa.shards import META
from ..lpa.train import CHECKPOINT, CONFIG
from ..lpa.train_config import TrainConfig
from . import axolotl, llamafactory, titan_export
from .forms import record
from .hf_readme import readme
from .presets import load_config

RECIPES = {"llamafactory": llamafactory.write, "axolotl": axolotl.write}
"""Programs that pretrain the Hugging Face folder: each needs it, and a YAML beside it."""
FORMS = ("native", "hf", *RECIPES, "torchtitan")
"""What a winner is exported to: train.yaml; a Hugging Face folder; what other programs train that with; a package for
torchtitan."""
_ADD = "add the tokenizer's files, and eos_token_id to config.json"


def read_forms(text: str) -> tuple[str, ...]:
    """`native,hf` as forms. Raises UserError."""
    words = tuple(word.strip() for word in text.split(","))
    for word in words:
        if word not in FORMS:
            raise UserError(f"--to: unknown form '{word}', {nearest(word, FORMS)}")
    return words


def check_words(
    directory: Path | None,
    saved: Path | None,
    forms: tuple[str, ...],
    of_study: Mapping[str, object],
    of_saved: Mapping[str, object],
) -> None:
    """Raises UserError for words of `lpanas export` that do not go together.

    saved: the checkpoint; of_study, of_saved: options that go with the one alone, as they were given.
    """
    if saved is None and directory is None:
        raise UserError("export: expected a study's folder, or --checkpoint")
    for name, value in (of_study if saved is not None else of_saved).items():
        if value:
            raise UserError(f"{name}: {'does not go' if saved is not None else 'only goes'} with --checkpoint")
    if saved is not None and directory is not None:
        raise UserError(f"--checkpoint {saved}: expected no study's folder beside it, found {directory}")
    if saved is not None and forms != ("hf",):
        raise UserError(f"--checkpoint {saved}: expected --to hf, found --to {','.join(forms)}")


def export_forms(path: Path, forms: tuple[str, ...], say: Callable[[str], None]) -> list[Path]:
    """What forms ask for beside a train.yaml; what was written. Raises UserError.

    say: told what is missing in them.
    """
    config, wanted = load_config(path), [form for form in RECIPES if form in forms]
    done = {"hf": export_config(path, say)} if "hf" in forms or wanted else {}
    done |= {form: RECIPES[form](config, path.parent, say) for form in wanted}
    done |= {"torchtitan": titan_export.export_config(path)} if "torchtitan" in forms else {}
    with writing(path.parent):
        record(path.parent, config, [*done])
    return [*done.values()]


def export_config(path: Path, say: Callable[[str], None]) -> Path:
    """The folder without weights for a train.yaml, in `hf` beside it; returns it. Raises UserError.

    say: told what the folder lacks.
    """
    config, out = load_config(path), path.parent / "hf"
    tokenizer = _said(hf_tokenizer(config.data), config.data.shards, say)
    hf.write_folder(out, config.model, tokenizer, None, readme(config, has_tokenizer=tokenizer is not None))
    return out


def export_checkpoint(path: Path, out: Path | None, merge: bool, say: Callable[[str], None]) -> Path:
    """The folder of a checkpoint of `lpanas train`: returns it, `hf` or `hf-merged` beside the checkpoint when left out.

    path: the file, a folder that many processes wrote, or the folder of the training. Raises UserError.
    """
    file = keeper.newest(path / CHECKPOINT) if path.is_dir() and not checkpoint_folder.is_one(path) else path
    if file is None or not file.exists():
        raise UserError(f"--checkpoint {path}: no such file (expected a {CHECKPOINT}, or the folder that `lpanas train` wrote)")
    config = load_config(file.parent / CONFIG)
    hf.check_expressible(config.model)
    model = config.model
    weights = hf.model_weights(model, keeper.weights(file, model), str(file))
    if merge:
        model, weights = hf.merged(model, weights)
    out = out or file.parent / ("hf-merged" if merge else "hf")
    hf.write_folder(out, model, _trained_with(config, file, say), weights)
    return out


def _trained_with(config: TrainConfig, file: Path, say: Callable[[str], None]) -> HfTokenizer | None:
    """The tokenizer of a checkpoint's training: the one kept beside it. Older trainings kept none: that of the data then, as
    long as they are what the model was trained on; None otherwise, as another would read other words."""
    if config.data.is_bytes:
        return bytes_tokenizer()
    if (file.parent / META).exists():
        return _said(tokenizer_beside(file.parent), file.parent, say)
    try:
        if keeper.is_of(file, config.fingerprint(content_of(config.data))):
            return _said(hf_tokenizer(config.data), config.data.shards, say)
        why = f"{config.data.name} is no longer what it was trained on"
    except UserError as error:
        why = str(error)
    say(f"no tokenizer is exported: none is kept in {file.parent}, and {why}; {_ADD}")
    return None


def _said(found: HfTokenizer | None, folder: object, say: Callable[[str], None]) -> HfTokenizer | None:
    if found is None:
        say(f"no tokenizer.json in {folder}; {_ADD}")
    return found
