"""The methods, where each comes from, and its settings.

Settings are those their authors published or shipped for data of this kind; nobody's were tuned on the shops
measured here, except our own, on validation sessions only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: What `--models` calls it.
        title: What the table calls it.
        module: Of `bench.next_item.methods`.
        environment: The virtual environment that it runs in.
        settings: Handed to the module.
        draws: Whether the seed matters, so that it is run with several.
        checkout: Folder that it needs under the peers' folder.
        program: Program that it needs on PATH.
        distribution: Package that it needs in its environment.
        source: For the report.
    """

    name: str
    title: str
    module: str
    environment: str
    settings: dict[str, Any] = field(default_factory=dict)
    draws: bool = False
    checkout: str = ""
    program: str = ""
    distribution: str = ""
    source: str = "own, include/ml/baselines.py"


METHODS = (
    Method("popularity", "popularity", "item_to_item", ".venv-ml", {"kind": "popularity"}),
    Method("markov", "item-to-item Markov", "item_to_item", ".venv-ml", {"kind": "transitions", "reach": 1}),
    Method(
        "rules",
        "sequential rules (10 steps)",
        "item_to_item",
        ".venv-ml",
        {"kind": "transitions", "reach": 10},
    ),
    Method("covisitation", "co-visitation (item-kNN)", "item_to_item", ".venv-ml", {"kind": "covisitation"}),
    Method(
        "vsknn",
        "V-SKNN (session-rec)",
        "session_rec",
        ".venv-peers",
        {
            "kind": "vsknn",
            "k": 500,
            "sample_size": 1000,
            "weighting": "quadratic",
            "weighting_score": "quadratic",
            "idf_weighting": 5,
        },
        checkout="session-rec",
        distribution="pympler",
        source="github.com/rn5l/session-rec",
    ),
    Method(
        "vstan",
        "VSTAN (session-rec)",
        "session_rec",
        ".venv-peers",
        {
            "kind": "vstan",
            "k": 1000,
            "sample_size": 2500,
            "similarity": "cosine",
            "lambda_spw": 3.62,
            "lambda_snh": 100,
            "lambda_inh": 0.4525,
            "lambda_ipw": 3.62,
            "lambda_idf": 1,
        },
        checkout="session-rec",
        distribution="pympler",
        source="github.com/rn5l/session-rec",
    ),
    Method(
        "vmis",
        "VMIS-kNN (Serenade, Java)",
        "vmis",
        ".venv-peers",
        {"k": 500, "m": 1000},
        checkout="serenade",
        program="javac",
        source="github.com/bolcom/serenade-experiments-sigmod, vmis_java",
    ),
    Method(
        "gru4rec",
        "GRU4Rec (official, PyTorch)",
        "gru4rec",
        ".venv-peers",
        # Its paramfiles/retailrocket_bprmax_shared_best.py, for half of its ten epochs.
        {
            "loss": "bpr-max",
            "constrained_embedding": True,
            "embedding": 0,
            "elu_param": 0.5,
            "layers": [224],
            "batch_size": 80,
            "dropout_p_embed": 0.5,
            "dropout_p_hidden": 0.05,
            "learning_rate": 0.05,
            "momentum": 0.4,
            "n_sample": 2048,
            "sample_alpha": 0.4,
            "bpreg": 1.95,
            "logq": 0.0,
            "n_epochs": 5,
        },
        draws=True,
        checkout="gru4rec",
        distribution="torch",
        source="github.com/hidasib/GRU4Rec_PyTorch_Official",
    ),
    Method(
        "sasrec",
        "SASRec (RecTools)",
        "sasrec",
        ".venv-peers",
        {
            "n_factors": 128,
            "n_blocks": 2,
            "n_heads": 2,
            "dropout_rate": 0.2,
            "session_max_len": 20,
            "lr": 1e-3,
            "batch_size": 256,
            "epochs": 5,
            "loss": "softmax",
        },
        draws=True,
        distribution="rectools",
        source="pypi.org/project/rectools",
    ),
    Method(
        "original",
        "the original recipe (LSTM 32)",
        "original_recipe",
        ".venv-ml",
        {
            "length": 20,
            "units": 32,
            "dropout": 0.3,
            "min_length": 3,
            "learning_rate": 1e-3,
            "batch_size": 32,
            "validation_split": 0.2,
            "epochs": 100,
            "patience": 20,
        },
        draws=True,
        source="github.com/jacopotagliabue/post-modern-stack, written anew",
    ),
    Method(
        "ours", "**ours**", "ours", ".venv-ml", {"arguments": []}, draws=True, source="include/ml/train.py"
    ),
)
