"""From a person's request to a Comparison: its variants, its reference, and the checks that need no model."""

from __future__ import annotations

from collections.abc import Sequence

from playground.comparing import prompts
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput, BadPrompt
from playground.values.files import Variant
from playground.values.request import Comparison, Image, ImagePlace, Order, Turn

# More than the largest context holds (262,144 tokens). A worker splits 2 MB a second into tokens, in the run's turn.
_MOST_CHARACTERS = 4_000_000


def check(comparison: Comparison, max_panes: int) -> None:
    """Raises BadInput or BadPrompt for what is invalid whatever the models are."""
    texts = [message.text for message in comparison.conversation] or [comparison.prompt]
    size = sum(map(len, texts))
    if size > _MOST_CHARACTERS:
        raise BadPrompt(f"The prompt has {size:,} characters; at most {_MOST_CHARACTERS:,} are read.")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise BadPrompt("The prompt contains an invalid character (an unpaired surrogate). Please retype it.") from None
    if comparison.conversation:
        last = comparison.conversation[-1]
        is_empty = not last.text.strip() and not last.places
    else:
        is_empty = not comparison.prompt.strip() and bool(comparison.earlier or not comparison.images)
    if is_empty:
        raise BadPrompt("The prompt is empty. Write what you want to know about the image.")
    prompts.question((*(turn.prompt for turn in comparison.earlier), comparison.prompt)[0], len(comparison.images))
    if not comparison.variants:
        raise BadInput("No variant is ticked. Tick at least one quantization.")
    if len(comparison.variants) > max_panes:
        raise BadInput(f"{len(comparison.variants)} variants are ticked; at most {max_panes} fit in one comparison.")


def comparison_of(
    images: Sequence[Image],
    prompt: str,
    variants: Sequence[Variant],
    settings: RunSettings,
    earlier: Sequence[Turn] = (),
) -> Comparison:
    """The request of the page, the API or the command line. Raises BadInput, as `reference_of`."""
    return Comparison(
        images=tuple(images),
        prompt=prompt,
        variants=tuple(variants),
        reference=reference_of(variants, settings.reference),
        sampling=settings.sampling(),
        runtime=settings.runtime(),
        order=settings.order or Order.IN_TURN,
        chat_template=settings.chat_template,
        template_variables=settings.template_variables or {},
        system=settings.system,
        image_place=settings.image_place or ImagePlace.BEFORE,
        probabilities=settings.probabilities or settings.branches or False,
        cold=settings.cold or False,
        branches=settings.branches or False,
        earlier=tuple(earlier),
        remedies=settings.remedies or (),
    )


def reference_of(variants: Sequence[Variant], wanted: str | None = None) -> str:
    """The id of the variant to compare with: the wanted one, the family's reference, or the most precise one.

    Raises BadInput if there is no variant, or the wanted one is not among them.
    """
    if not variants:
        raise BadInput("No variant is ticked. Tick at least one quantization.")
    if wanted:
        for variant in variants:
            if wanted in (variant.id, variant.label, variant.pair_id, variant.endpoint):
                return variant.id
        raise BadInput(f"The reference '{wanted}' is not among the variants of this run.")
    for variant in variants:
        if variant.reference:
            return variant.id
    return max(variants, key=lambda v: (v.model.bits_per_weight or 0, v.projector.bits_per_weight or 0)).id
