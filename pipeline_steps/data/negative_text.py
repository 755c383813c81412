"""The text that becomes a pair's hardest negative."""

from __future__ import annotations

import logging
import random

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import NegativeTextConfig
from pipeline_steps.data.eda import augment
from pipeline_steps.data.pairs import mixed_seed
from pipeline_steps.data.wordnet import WordNet, wordnet_folder

LOG = logging.getLogger("pipeline_steps")

# Ablation V1 of the paper: "prepending some textual negative prefixes to raw captions"; it quotes the first two.
NEGATIVE_PREFIXES = (
    "the image has no",
    "this picture lacks",
    "a photo without",
    "a picture that does not show",
    "an image that is not of",
    "there is no sign of",
    "nothing here looks like",
    "not a photo of",
    "the photo does not contain",
    "this image is unrelated to",
    "the scene is free of",
    "one cannot see",
    "it is wrong to call this",
    "the opposite of",
    "anything but",
    "absent from the picture:",
)


class NegativeText:
    """The negative text of row `row` in epoch `epoch`, the same in every process and after a resume.

    `settings.source`: `prompt` is the caption itself, to be encoded under the learned prompt (`uses_prompt`);
    `prefix` (V1) puts a drawn negative prefix before it; `random_caption` (a control) is the caption of a drawn other
    row. `augment: eda` perturbs the caption first. `is_caption`: every text equals its row's caption.

    Raises PipelineError before any work: for EDA without WordNet, and for other captions where there is one row only.
    Captions without a letter a to z stay as they are under EDA; their number is logged and in `without_letters`.
    """

    def __init__(self, captions: pa.ChunkedArray | pa.Array, settings: NegativeTextConfig, seed: int) -> None:
        self._captions, self._settings, self._seed = captions, settings, seed
        self.uses_prompt = settings.source == "prompt"
        self.is_caption = self.uses_prompt and settings.augment == "none"
        self.without_letters = 0
        if settings.source == "random_caption" and len(captions) < 2:
            raise PipelineError("negative_text.source: random_caption needs a second pair; give at least two")
        if settings.augment == "eda":
            self._synonyms = WordNet(wordnet_folder())
            self._count_without_letters()

    def __call__(self, row: int, epoch: int) -> str:
        """The text, drawn by (seed, epoch, row)."""
        if self.is_caption:
            return str(self._captions[row])
        rng = random.Random(mixed_seed(self._seed, epoch, row))  # noqa: S311 - a reproducible draw, no secret
        settings = self._settings
        prefix = f"{rng.choice(NEGATIVE_PREFIXES)} " if settings.source == "prefix" else ""
        if settings.source == "random_caption":
            other = rng.randrange(len(self._captions) - 1)
            row = other + (other >= row)
        caption = str(self._captions[row])
        if settings.augment == "eda":
            caption = augment(caption, rng, self._synonyms)
        return prefix + caption

    def _count_without_letters(self) -> None:
        letters = pc.sum(pc.match_substring_regex(self._captions, "[a-zA-Z]")).as_py() or 0
        self.without_letters = len(self._captions) - letters
        if self.without_letters:
            LOG.warning(
                "%d of %d captions have no letter a to z: augmentation leaves them as they are",
                self.without_letters,
                len(self._captions),
            )
