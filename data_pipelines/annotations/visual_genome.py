"""Visual Genome: sentences about regions, taken as captions of the image; and its questions, for VQA."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from data_pipelines.annotations.dataset import Annotations, PublicDataset, num_videos
from data_pipelines.annotations.files import AnnotationEntry, read_objects
from data_pipelines.annotations.images import file_stems, visual_genome_id
from data_pipelines.annotations.records import Caption, SoftQuestion

_NUM_IMAGES = 108_077


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualGenome(PublicDataset):
    """Visual Genome: 108,077 images with 5.4 million descriptions of regions (Krishna et al., IJCV 2017).

    https://homes.cs.washington.edu/~ranjay/visualgenome/api.html has region_descriptions.json (as zip) and
    the images in two parts, images.zip and images2.zip.

    Images are named by number, 1.jpg, 2.jpg, ..., in the folders VG_100K and VG_100K_2; --videos is the
    folder that holds both.

    For pretraining, each description of a region becomes a caption of the whole image. All are in the train
    split.
    """

    regions: Path
    """region_descriptions.json."""

    def read(self) -> Annotations:
        """Read the descriptions."""
        images = read_objects(self.regions)
        regions = [region for image in images for region in image.entries("regions")]
        captions = [_caption(region) for region in regions if region.text("phrase", may_be_empty=True)]
        found = {"images": len(images), "descriptions": len(regions)}
        fact = self.check(self.regions, "Visual Genome", found, {"images": _NUM_IMAGES})
        return Annotations(
            records={(Caption, "train"): captions},
            file_stems=file_stems({caption.video_id for caption in captions}),
            facts=(
                fact,
                f"{num_videos(captions):,} images have descriptions",
                f"{len(regions) - len(captions):,} empty descriptions are left out",
            ),
        )


def read_questions(path: Path, dataset: PublicDataset) -> tuple[list[SoftQuestion], str]:
    """Return the questions of question_answers.json with answers unchanged, and a line of counts.

    Raises:
      UserError: the file does not exist, or it is another one.
    """
    images = read_objects(path)
    questions = [_question(qa) for image in images for qa in image.entries("qas")]
    found = {"images": len(images), "questions": len(questions)}
    return questions, dataset.check(path, "Visual Genome", found, {"images": _NUM_IMAGES})


def _caption(region: AnnotationEntry) -> Caption:
    return Caption(
        id=region.text("region_id"),
        video_id=visual_genome_id(region.integer("image_id")),
        text=region.text("phrase"),
    )


def _question(qa: AnnotationEntry) -> SoftQuestion:
    return SoftQuestion(
        id=f"vg_{qa.integer('qa_id')}",
        video_id=visual_genome_id(qa.integer("image_id")),
        question=qa.text("question"),
        answer_scores={qa.text("answer"): 1.0},
    )
