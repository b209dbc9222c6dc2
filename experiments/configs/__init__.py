"""The experiments by the names that `clipbert train` knows, one file each."""

from __future__ import annotations

from experiments.configs import demo_retrieval, folder_retrieval

EXPERIMENTS = {
    "demo/retrieval": demo_retrieval.experiment,
    "folder/retrieval": folder_retrieval.experiment,
}
