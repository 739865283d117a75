"""The offline evaluation of next-item models on one protocol; see docs/evaluation.md.

`split` cuts events into a snapshot folder; `run` measures methods on one; what was run
before, of the same code and settings, is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.measure import ROOT
from bench.next_item import encode, report, shop
from bench.next_item.catalogue import METHODS, Method
from bench.next_item.run import commit_of, kept_run, machine, run_once
from bench.next_item.split import BadEventsError, Options, write_split


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    given = _parser().parse_args(argv)
    try:
        return int(given.action(given))
    except BadEventsError as error:
        print(error, file=sys.stderr)
        return 2


def _split(given: argparse.Namespace) -> int:
    options = Options(
        actions=tuple(given.actions.split(",")),
        pause_minutes=given.pause_minutes,
        min_support=given.min_support,
        test_items=given.test_items,
        validation_share=given.validation_share,
        test_share=given.test_share,
        max_queries=given.max_queries,
    )
    manifest = write_split(given.events, given.snapshot, options, given.catalogue)
    print(f"{manifest['snapshot_id']}: sessions {manifest['counts']}")
    return 0


def _run(given: argparse.Namespace) -> int:
    manifest = encode.read_manifest(given.snapshot)
    data = encode.encode(given.snapshot)
    work: Path = given.work or given.snapshot.with_name(f"{given.snapshot.name}-bench")
    encoded = work / "shop"
    shop.save(data, encoded)
    methods = _methods(given.models, given.ours_args)
    results: dict[str, Any] = {
        "snapshot_id": manifest["snapshot_id"],
        "split": manifest.get("split", {"events": "an exported snapshot"}),
        "counts": {
            "train_sessions": len(data.train),
            "train_interactions": len(data.train.items),
            "products": data.products,
            "test_sessions": len(data.test),
            "queries": len(data.asked),
            "unknown_target_share": float((data.targets >= data.products).mean()),
        },
        "machine": machine(),
        "settings": {
            method.name: {
                "title": method.title,
                "source": method.source,
                "commit": commit_of(given.peers / method.checkout) if method.checkout else "",
                "settings": method.settings,
            }
            for method in methods
        },
    }
    runs: dict[str, list[dict[str, Any]]] = {}
    wanted = given.models.split(",") if given.models else [method.name for method in methods]
    for method in methods:
        records: list[dict[str, Any]] = []
        for seed in range(42, 42 + (given.seeds if method.draws else 1)):
            record = kept_run(method, seed, given.snapshot, given.peers, work)
            if record is None and method.name in wanted:
                print(f"==> {method.name}, seed {seed}", flush=True)
                record = run_once(method, seed, given.snapshot, encoded, given.peers, work)
            records += [record] if record else []
            if record is None:
                print(
                    f"    {method.name}, seed {seed}: no run of this data, code and settings; left out",
                    flush=True,
                )
            if record and "absent" in record:
                print(f"    {record['absent']}", flush=True)
                break
        if records:
            runs[method.name] = records
    results |= report.score(data, runs, work)
    text = report.to_markdown(results, {method.name: method for method in methods})
    (work / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    (work / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {work / 'results.json'} and results.md")
    return 0


def _methods(names: str, ours_args: str) -> list[Method]:
    """Returns every method, ours with its arguments, once the names asked for are known to exist."""
    if strangers := set(filter(None, names.split(","))) - {method.name for method in METHODS}:
        raise BadEventsError(f"No such model: {', '.join(sorted(strangers))}.")
    return [
        replace(method, settings={"arguments": ours_args.split()}) if method.name == report.OURS else method
        for method in METHODS
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.next_item", description=__doc__)
    commands = parser.add_subparsers(required=True)
    split = commands.add_parser("split", help="cut events into a snapshot folder")
    split.add_argument("events", type=Path, help="Coveo's browsing CSV, or a table of session, item, time_ms")
    split.add_argument("snapshot", type=Path, help="folder to write")
    default = Options()
    split.add_argument("--catalogue", type=Path, help="Coveo's sku_to_content CSV; only ours reads it")
    split.add_argument("--actions", default=",".join(default.actions))
    split.add_argument("--pause-minutes", type=float, default=default.pause_minutes, help="0: no cut")
    split.add_argument("--min-support", type=int, default=default.min_support, help="1: every product")
    split.add_argument("--test-items", choices=("all", "known"), default=default.test_items)
    split.add_argument("--validation-share", type=float, default=default.validation_share)
    split.add_argument("--test-share", type=float, default=default.test_share)
    split.add_argument("--max-queries", type=int, default=default.max_queries)
    split.set_defaults(action=_split)
    every = ",".join(method.name for method in METHODS)
    run = commands.add_parser("run", help="measure methods on a snapshot folder")
    run.add_argument("snapshot", type=Path)
    run.add_argument("--work", type=Path, help="folder for what is written; <snapshot>-bench if left out")
    run.add_argument("--models", default="", help=f"run anew only these, keep the rest: {every}")
    run.add_argument("--seeds", type=int, default=3, help="runs of every method that draws")
    run.add_argument("--ours-args", default="", help="hyper-parameters handed to train.py, in one string")
    peers = Path(os.environ.get("PEERS_DIR", ROOT.parent / "peers"))
    run.add_argument("--peers", type=Path, default=peers, help="folder of the checkouts (PEERS_DIR)")
    run.set_defaults(action=_run)
    return parser
