"""The experiments by the names that `clipbert train` knows, one file each."""

from __future__ import annotations

from experiments.configs import (
    demo_count,
    demo_image_qa,
    demo_multiple_choice,
    demo_open_ended_qa,
    demo_pretraining,
    demo_retrieval,
    folder_retrieval,
)

EXPERIMENTS = {
    "demo/retrieval": demo_retrieval.experiment,
    "demo/multiple_choice": demo_multiple_choice.experiment,
    "demo/open_ended_qa": demo_open_ended_qa.experiment,
    "demo/count": demo_count.experiment,
    "demo/image_qa": demo_image_qa.experiment,
    "demo/pretraining": demo_pretraining.experiment,
    "folder/retrieval": folder_retrieval.experiment,
}
