"""Generated videos for the pointing game: clips, a caption, and the places of the objects of its words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.errors import UserError
from clipbert_jax.probing.faithfulness import Picture
from clipbert_jax.probing.pointing_game import centre_in_box
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records
from data_pipelines.clips import sample_clips
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.synthetic.boxes import ObjectTrack, object_boxes
from data_pipelines.synthetic.texts import object_name
from data_pipelines.synthetic.video_corpus import read_plans
from experiments.probe.probe_video import cells_in_picture, picture_shares
from experiments.runs.load_run import Run

Grid = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PointingVideo:
    """A video and its caption. Letters: `o` objects, `k` clips, `gh gw` cells of the padded square."""

    video_id: str
    text: str
    frames: UInt8[np.ndarray, "k t h w 3"]
    text_ids: Int[np.ndarray, " l"]
    text_mask: Bool[np.ndarray, " l"]
    words: tuple[tuple[int, ...], ...]
    """Indices of the tokens that name each object."""
    is_shown: Bool[np.ndarray, "o k"]
    """Whether any frame of the clip shows the object."""
    targets: Bool[np.ndarray, "o k gh gw"]
    """Cells whose centre is in the object's box in a frame of the clip."""
    grid: Grid
    picture: Picture
    """Rows and columns of cells whose centre is not in the padding."""

    @property
    def in_picture(self) -> Bool[np.ndarray, "gh gw"]:
        """Return the mask of the cells of the picture."""
        return (np.arange(self.grid[0]) < self.picture[0])[:, None] & (
            np.arange(self.grid[1]) < self.picture[1]
        )

    def cases(self) -> list[tuple[int, int, int]]:
        """Return (object, clip, another object) where the clip shows the first and not the other."""
        cases = []
        for shown, clip in np.argwhere(self.is_shown).tolist():
            # The next object, around the end, so that early and late words are wrong equally often.
            others = [(shown + step) % len(self.is_shown) for step in range(1, len(self.is_shown))]
            hidden = [other for other in others if not self.is_shown[other, clip]]
            cases += [(shown, clip, other) for other in hidden[:1]]
        return cases


def pointing_videos(
    run: Run, *, data_dir: str, split: str, num_clips: int, grid: Grid, num_videos: int | None = None
) -> Iterator[PointingVideo]:
    """Yield the videos of a split of generated videos, in order, with uniform clips.

    Args:
      run: trained model, whose settings make the clips and texts.
      data_dir: directory of generated videos.
      split: train, validation or test.
      num_clips: number of clips per video.
      grid: rows and columns of the model's cells.
      num_videos: number of videos, from the first on; None for all.

    Raises:
      UserError: the videos were not generated, or a caption is cut before the last object's name.
    """
    data, corpus = dataclasses.replace(run.experiment.data, data_dir=data_dir), open_corpus(data_dir)
    plans = read_plans(data_dir, split)[:num_videos]
    captions: dict[str, Caption] = {}
    for caption in read_records(data_dir, Caption, split):
        captions.setdefault(caption.video_id, caption)
    for plan in plans:
        text, video, tracks = captions[plan.video_id].text, corpus.read(plan.video_id), object_boxes(plan)
        clips = sample_clips(video, data, num_clips=num_clips)
        ids, mask = run.encode_texts([text])
        tokens = run.tokenizer.split(text)
        size = video.index.height, video.index.width
        shares = picture_shares(run, *size, grid)
        is_shown, targets = _objects_in_clips(tracks, clips.times, np.array(shares) / size[::-1], grid)
        yield PointingVideo(
            video_id=plan.video_id,
            text=text,
            frames=clips.frames,
            text_ids=ids[0],
            text_mask=mask[0],
            words=tuple(
                find_words(tokens, run.tokenizer.split(object_name(event))[1:-1], int(mask[0].sum()) - 1)
                for event in plan.events
            ),
            is_shown=is_shown,
            targets=targets,
            grid=grid,
            picture=cells_in_picture(grid, shares),
        )


def find_words(tokens: Sequence[str], name: Sequence[str], end: int) -> tuple[int, ...]:
    """Return the indices of a name in the tokens of a text before `end`, where the model stops reading.

    Raises:
      UserError: the name is not among them.
    """
    for start in range(end - len(name) + 1):
        if list(tokens[start : start + len(name)]) == list(name):
            return tuple(range(start, start + len(name)))
    raise UserError(
        f"the model reads only {end + 1} tokens of the text {' '.join(tokens[1:-1])!r}, without "
        f"{' '.join(name)!r}: use a model with a longer --data.max-text-length"
    )


def _objects_in_clips(
    tracks: Sequence[ObjectTrack],
    times: Float[np.ndarray, "k t"],
    scale: Float[np.ndarray, " 2"],
    grid: Grid,
) -> tuple[Bool[np.ndarray, "o k"], Bool[np.ndarray, "o k gh gw"]]:
    """Return which clips show each object, and in which cells; `scale` (x, y) turns pixels into shares."""
    shown, targets = [], []
    for track in tracks:
        is_shown, boxes = track.boxes_at(times.reshape(-1))
        cells = centre_in_box(grid, boxes * np.tile(scale, 2)) & is_shown[:, None, None]
        shown.append(is_shown.reshape(times.shape).any(axis=1))
        targets.append(cells.reshape(*times.shape, *grid).any(axis=1))
    return np.stack(shown), np.stack(targets)
