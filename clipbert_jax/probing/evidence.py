"""Evidence of clips: the change of the probe score without each clip, or with another version of it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from clipbert_jax.probing.probe_score import ProbeScore


def changes_without_clips(
    scores: Float[np.ndarray, "k a"], probe_score: ProbeScore
) -> Float[np.ndarray, " k"] | None:
    """Return the change without each clip in the consensus; None for a single clip."""
    num_clips = len(scores)
    if num_clips == 1:
        return None
    others = np.stack([np.delete(scores, clip, axis=0) for clip in range(num_clips)])
    return probe_score.of_scores(others) - probe_score.of_scores(scores[None])


def changes_with_replaced_clips(
    scores: Float[np.ndarray, "k a"], replaced: Float[np.ndarray, "m k a"], probe_score: ProbeScore
) -> Float[np.ndarray, "m k"]:
    """Return the change when one clip at a time has other scores.

    Args:
      scores: scores of the original clips.
      replaced: scores of m versions of them; clips do not see each other, so [m, k] is version m of clip k.
      probe_score: number that is probed.
    """
    changed = np.empty(replaced.shape[:2])
    for clip in range(len(scores)):  # a loop, as all clips at once would take k times the memory
        versions = np.broadcast_to(scores, (len(replaced), *scores.shape)).copy()
        versions[:, clip] = replaced[:, clip]
        changed[:, clip] = probe_score.of_scores(versions)
    return changed - probe_score.of_scores(scores[None])
