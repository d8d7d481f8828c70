"""ASPL's surrogate: what a personalization has learned from the images as they are by now."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from safezone.arrays import Images, stream_seed
from safezone.concepts import Concept
from safezone.defenses import defense
from safezone.fields import Checked, Count, Rate
from safezone.images import to_uint8
from safezone.models.base import Conditioning, Model
from safezone.personalize import TextualInversion, TrainingRun, train

_PLACEHOLDER = "<surrogate>"


@dataclass(frozen=True)
class Surrogate(Checked):
    """Trains on the images as poisoned so far, in turns with steps of the poison (ASPL, Van Le et
    al. 2023).

    ``rounds``: how often the surrogate is trained anew, at equal distances over the poison's
    steps. ``steps``, ``learning_rate``: of each training. ``word``: where the learned vector
    starts.

    The surrogate is textual inversion by the project's own engine; Anti-DreamBooth fine-tunes the
    U-Net and carries it on from round to round. Each image has a surrogate of its own, started
    afresh each round, so that an image's poison does not depend on its neighbours; the released
    code trains one on all images of a person. Raises FieldError for values out of range.
    """

    rounds: Count = 5
    steps: Count = 50
    learning_rate: Rate = 5e-3
    word: str = "object"

    def learn(
        self, model: Model, images: Images, names: Sequence[str], prompt: str, seed: int, done: int
    ) -> Conditioning:
        """The prompt with what each image's surrogate has learned for its ``{}``, [batch] rows.

        ``done``: the poison's steps so far, which names the training's random stream.
        """
        method = TextualInversion(
            steps=self.steps,
            learning_rate=self.learning_rate,
            initializer=self.word,
            checkpoint_every=0,
        )
        runs = [
            TrainingRun(
                key=f"{row} {name}",  # images of several concepts may have one name
                concept=Concept(
                    name=f"image-{stream_seed(name)}",  # a name may not be fit for a file
                    class_word=self.word,
                    placeholder=_PLACEHOLDER,
                    images=to_uint8(image[None]).cpu(),
                    image_names=("0",),
                ),
                defense=defense("nominal"),
                seed=stream_seed(seed, "poison", "surrogate", done),
            )
            for row, (name, image) in enumerate(zip(names, images, strict=True))
        ]
        with torch.enable_grad():
            adapters = train(model, runs, method, progress=False)
        tokens = model.tokenize([prompt.replace("{}", _PLACEHOLDER)] * len(runs), _PLACEHOLDER)
        vectors = torch.stack([adapter.vectors for adapter in adapters]).to(model.device)
        with torch.no_grad():
            return model.embed_text(tokens, vectors)
