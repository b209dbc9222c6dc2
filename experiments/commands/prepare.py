"""`clipbert prepare`: the commands that build a data directory, one for each kind of source.

A public dataset is a dataclass in `data_pipelines/annotations`: its fields are options, its docstring is the
help. What all of them share, where videos come from and how they are stored, is in
`BuildOptions` and `StoreOptions`.
"""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from tyro.conf import OmitArgPrefixes, arg, subcommand

from clipbert_jax.errors import UserError
from data_pipelines.annotations.activitynet import Activitynet
from data_pipelines.annotations.activitynet_qa import ActivitynetQa
from data_pipelines.annotations.clipbert_jsonl import ClipbertJsonl
from data_pipelines.annotations.coco_captions import CocoCaptions
from data_pipelines.annotations.dataset import Dataset
from data_pipelines.annotations.didemo import Didemo
from data_pipelines.annotations.lsmdc import Lsmdc
from data_pipelines.annotations.msrvtt import Msrvtt
from data_pipelines.annotations.msrvtt_qa import MsrvttMc, MsrvttQa
from data_pipelines.annotations.msvd import Msvd
from data_pipelines.annotations.msvd_qa import MsvdQa
from data_pipelines.annotations.own_table import OwnTable
from data_pipelines.annotations.tgif_qa import TgifQa
from data_pipelines.annotations.visual_genome import VisualGenome
from data_pipelines.annotations.vqa import Vqa
from data_pipelines.corpus.dataset import prepare_dataset
from data_pipelines.corpus.folder import prepare_folder
from data_pipelines.corpus.ingest import IngestOptions
from data_pipelines.corpus.storage import Compact, Frames, Original, StorageForm
from data_pipelines.synthetic.image_corpus import prepare_synthetic_images
from data_pipelines.synthetic.texts import Level
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.input_checks import check_decode_timeout, check_range
from experiments.runtime.progress import Progress, say

AnyDataset = TypeVar("AnyDataset", bound=Dataset)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PrepareGenerated:
    """The options of both kinds of generated data."""

    data_dir: Path
    """Data directory to create; must not exist yet."""
    level: Level = "easy"
    """Difficulty: objects differ in shape, in shape and colour, or also in what they do."""
    num_train: int
    """Number of videos or images of the train split."""
    num_validation: int
    """Number of videos or images of the validation split."""
    num_test: int
    """Number of videos or images of the test split."""
    seed: int = 0
    """Seed of all random choices."""
    num_workers: int = 2
    """Number of processes, which does not change the result."""
    overwrite: bool = False
    """Replace an older data directory."""

    def prepare(self, make: Callable[..., object], unit: str) -> None:
        """Generate the splits, with lines about the progress."""
        check_range("--num-workers", self.num_workers, 0)
        total = self.num_train + self.num_validation + self.num_test
        progress = Progress(f"generated in {self.data_dir}", total=total, unit=unit)
        make(**vars(self), on_progress=progress.update)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareDemo(_PrepareGenerated):
    """Generate H.264 videos of short events, with captions and questions.

    Images of the same objects, for the other tasks, come from `clipbert prepare demo_images`.
    """

    data_dir: Path = Path("data/demo")
    num_train: int = 800
    num_validation: int = 64
    num_test: int = 100

    def run(self) -> None:
        """Prepare."""
        self.prepare(prepare_synthetic_videos, "videos")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareDemoImages(_PrepareGenerated):
    """Generate images of the same objects, with captions, counts and soft-scored questions."""

    data_dir: Path = Path("data/demo_images")
    num_train: int = 2000
    num_validation: int = 100
    num_test: int = 200

    def run(self) -> None:
        """Prepare."""
        self.prepare(prepare_synthetic_images, "images")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Checks and storage of videos."""

    storage: Literal["original", "compact", "frames"] = "original"
    """Form of stored videos: the original bytes, compact H.264 that decodes fast, or frames as JPEGs."""
    size: int | None = None
    """Largest longer side in pixels, for compact (448) and frames."""
    gop: int | None = None
    """Frames from one key frame to the next, for compact (15)."""
    crf: int | None = None
    """Quality for compact (20); a smaller number is better and takes more space."""
    jpeg_fps: float | None = None
    """JPEGs per second, for frames (4)."""
    jpeg_quality: int | None = None
    """Quality from 1 to 100, for frames (90)."""
    on_error: Literal["skip", "error"] = "skip"
    """Reaction to an unreadable video: leave it out and list it, or end with an error."""
    max_bad_share: float = 0.01
    """Accepted fraction of missing or unreadable videos; above it the exit code is 1."""
    num_workers: int = 2
    """Number of processes that check and store videos."""
    decode_timeout: float | None = None
    """Time limit for one video, in seconds; default: by its size and its frames."""
    beam: str | None = None
    """Options of an Apache Beam pipeline that does the work, in quotes, such as "--runner=FlinkRunner"."""
    beam_dir: str | None = None
    """Parent folder of the data directory as Beam's workers see it, such as gs://bucket/data."""

    @property
    def ingest_options(self) -> IngestOptions:
        """What the corpus is built with.

        Raises:
          UserError: an option out of range, or one of another storage form.
        """
        check_range("--num-workers", self.num_workers, 0)
        check_range("--max-bad-share", self.max_bad_share, 0, 1)
        check_decode_timeout(self.decode_timeout)
        return IngestOptions(
            storage=self.storage_form,
            on_error=self.on_error,
            num_workers=self.num_workers,
            decode_timeout=self.decode_timeout,
            beam=None if self.beam is None else tuple(shlex.split(self.beam)),
            beam_dir=self.beam_dir,
        )

    @property
    def storage_form(self) -> StorageForm:
        """The form, with those of its settings that are given.

        Raises:
          UserError: a setting of another form, or one out of range.
        """
        settings_of: dict[str, tuple[type, dict[str, Any]]] = {
            "original": (Original, {}),
            "compact": (Compact, {"size": "size", "gop": "gop", "crf": "crf"}),
            "frames": (Frames, {"size": "size", "fps": "jpeg_fps", "quality": "jpeg_quality"}),
        }
        form, option_of = settings_of[self.storage]
        for option in ("size", "gop", "crf", "jpeg_fps", "jpeg_quality"):
            if getattr(self, option) is not None and option not in option_of.values():
                raise UserError(
                    f"--{option.replace('_', '-')} is not a setting of --storage {self.storage}; see --help"
                )
        values = {name: getattr(self, option) for name, option in option_of.items()}
        return form(**{name: value for name, value in values.items() if value is not None})

    def exit_if_too_bad(self, bad_share: float, data_dir: Path) -> None:
        """End with exit code 1 if more videos are bad than accepted; what is built stays."""
        if bad_share > self.max_bad_share:
            say(
                f"{bad_share:.1%} of the videos are missing or unreadable, more than --max-bad-share "
                f"{self.max_bad_share:.1%}. {data_dir} is complete without them and may be used as it is. "
                "To add them, correct their files and run the same command with --overwrite"
            )
            sys.exit(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareFolder:
    """Build a data directory from a folder of your videos, with or without captions (csv or jsonl)."""

    videos: Path
    """Folder of video files; or a zip, tar, LMDB folder or .txt list of paths."""
    data_dir: Path
    """Data directory to create; must not exist yet."""
    annotations: Path | None = None
    """CSV with columns `video` and `caption` (optional: `split`, `id`), or JSON lines with the same keys.
    Without it, only the videos are stored."""
    vocab: Path | None = None
    """File vocab.txt or tokenizer folder; default: a vocabulary made from the captions."""
    allow_missing_videos: bool = False
    """Leave out videos of validation or test that are missing or unreadable, instead of ending."""
    overwrite: bool = False
    """Replace an older data directory."""
    store: OmitArgPrefixes[StoreOptions] = StoreOptions()

    def run(self) -> None:
        """Prepare and print the report; exit code 1 if too many videos are bad."""
        report = prepare_folder(
            self.videos,
            self.annotations,
            self.data_dir,
            vocab=self.vocab,
            options=self.store.ingest_options,
            allow_missing_videos=self.allow_missing_videos,
            overwrite=self.overwrite,
            on_progress=Progress("stored", total=None, unit="videos").update,
        )
        say(f"{self.data_dir}: {report}")
        self.store.exit_if_too_bad(report.bad_share, self.data_dir)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Places of the videos and of the data directory."""

    data_dir: Path
    """Data directory to create."""
    videos: Path | None = None
    """Folder, zip, tar, LMDB folder or .txt list of paths; leave out for a data directory that has them."""
    allow_missing_videos: bool = False
    """Leave out videos of validation or test that are missing or unreadable, instead of ending."""
    vocab: Path | None = None
    """File vocab.txt or tokenizer folder, such as bert-base-uncased; default: one made from the texts."""
    overwrite: bool = False
    """Replace an older data directory, or older annotations of the same kind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareDataset(Generic[AnyDataset]):
    """Build a data directory from the original annotation files of a dataset and its videos."""

    annotations: OmitArgPrefixes[AnyDataset]
    videos: OmitArgPrefixes[BuildOptions]
    store: OmitArgPrefixes[StoreOptions] = StoreOptions()

    def run(self) -> None:
        """Prepare and print the report; exit code 1 if too many videos are bad."""
        build = self.videos
        report = prepare_dataset(
            self.annotations,
            build.data_dir,
            videos=build.videos,
            options=self.store.ingest_options,
            vocab=build.vocab,
            allow_missing_videos=build.allow_missing_videos,
            overwrite=build.overwrite,
            on_progress=Progress("stored", total=None, unit="videos").update,
        )
        say(f"{build.data_dir}:\n{report}")
        self.store.exit_if_too_bad(report.bad_share, build.data_dir)


def _in_short(dataset: type) -> str:
    """Return the summary of a dataset for the list of commands."""
    return (inspect.getdoc(dataset) or "").partition("\n")[0]


Prepare = (
    Annotated[PrepareDemo, subcommand("demo")]
    | Annotated[PrepareDemoImages, subcommand("demo_images")]
    | Annotated[PrepareFolder, subcommand("folder")]
    | Annotated[PrepareDataset[OwnTable], subcommand("table", description=_in_short(OwnTable))]
    | Annotated[PrepareDataset[Msrvtt], subcommand("msrvtt", description=_in_short(Msrvtt))]
    | Annotated[PrepareDataset[MsrvttQa], subcommand("msrvtt_qa", description=_in_short(MsrvttQa))]
    | Annotated[PrepareDataset[MsrvttMc], subcommand("msrvtt_mc", description=_in_short(MsrvttMc))]
    | Annotated[PrepareDataset[Didemo], subcommand("didemo", description=_in_short(Didemo))]
    | Annotated[PrepareDataset[Activitynet], subcommand("activitynet", description=_in_short(Activitynet))]
    | Annotated[
        PrepareDataset[ActivitynetQa], subcommand("activitynet_qa", description=_in_short(ActivitynetQa))
    ]
    | Annotated[PrepareDataset[TgifQa], subcommand("tgif_qa", description=_in_short(TgifQa))]
    | Annotated[PrepareDataset[Msvd], subcommand("msvd", description=_in_short(Msvd))]
    | Annotated[PrepareDataset[MsvdQa], subcommand("msvd_qa", description=_in_short(MsvdQa))]
    | Annotated[PrepareDataset[Lsmdc], subcommand("lsmdc", description=_in_short(Lsmdc))]
    | Annotated[PrepareDataset[Vqa], subcommand("vqa", description=_in_short(Vqa))]
    | Annotated[PrepareDataset[CocoCaptions], subcommand("coco", description=_in_short(CocoCaptions))]
    | Annotated[
        PrepareDataset[VisualGenome], subcommand("visual_genome", description=_in_short(VisualGenome))
    ]
    | Annotated[PrepareDataset[ClipbertJsonl], subcommand("clipbert", description=_in_short(ClipbertJsonl))]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareCommand:
    """Build a data directory: videos, annotations, vocabulary."""

    source: Annotated[Prepare, arg(name="")]

    def run(self) -> None:
        """Prepare."""
        self.source.run()
