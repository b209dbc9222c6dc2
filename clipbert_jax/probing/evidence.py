"""Evidence: what each clip says alone, and what the others say without it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from clipbert_jax.probing.probe_score import ProbeScore


def changes_without_clips(
    scores: Float[np.ndarray, "k a"], probe_score: ProbeScore
) -> Float[np.ndarray, " k"] | None:
    """Return what the number changes by when a clip is left out of the consensus; None for a single clip."""
    num_clips = len(scores)
    if num_clips == 1:
        return None
    others = np.stack([np.delete(scores, clip, axis=0) for clip in range(num_clips)])
    return probe_score.of_scores(others) - probe_score.of_scores(scores[None])


def changes_with_replaced_clips(
    scores: Float[np.ndarray, "k a"], replaced: Float[np.ndarray, "m k a"], probe_score: ProbeScore
) -> Float[np.ndarray, "m k"]:
    """Return what the number changes by when one clip at a time has other scores.

    Args:
      scores: of the video as it is.
      replaced: of m versions of it; clips do not see each other, so version m of clip k alone is [m, k].
      probe_score: what is probed.
    """
    changed = np.empty(replaced.shape[:2])
    for clip in range(len(scores)):  # all at once would take k times the memory
        versions = np.broadcast_to(scores, (len(replaced), *scores.shape)).copy()
        versions[:, clip] = replaced[:, clip]
        changed[:, clip] = probe_score.of_scores(versions)
    return changed - probe_score.of_scores(scores[None])
