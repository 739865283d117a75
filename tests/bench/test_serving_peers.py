from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest

SESSIONS = [["a", "b", "c"], ["a", "b", "c"], ["x", "y"], ["x", "z"], ["b", "d"], ["x", "a"]]


def test_vmis_continues_a_session_as_its_neighbours_did(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skus = np.array(sorted({sku for session in SESSIONS for sku in session}))
    items = np.searchsorted(skus, np.concatenate(SESSIONS))
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in SESSIONS])])
    np.savez(tmp_path / "peer.npz", skus=skus, items=items, offsets=offsets)
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("vmis", root / "bench" / "serving_peers" / "vmis.py")
    assert spec is not None
    assert spec.loader is not None
    vmis = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vmis)

    body = {"instances": [{"session": ["a", "unknown", "b"], "k": 2}, {"session": [], "k": 2}]}
    answer, content_type = vmis.handler(io.BytesIO(json.dumps(body).encode()), None)
    first, empty = json.loads(answer)["predictions"]
    assert content_type == "application/json"
    assert first["skus"][0] == "c"
    assert "b" not in first["skus"]
    assert len(first["scores"]) == len(first["skus"]) == 2
    assert empty["skus"] == []
