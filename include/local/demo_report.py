"""What `make demo` tells of a run."""

from __future__ import annotations

from typing import Any

from include.local.airflow_api import TaskState

STEPS = ("transform", "export", "train", "gate", "deploy")


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def show(task: TaskState) -> None:
    """Prints a task that has ended."""
    took = f"{task.seconds:6.1f} s" if task.seconds is not None else "        "
    say(f"    {task.task_id:<58} {task.state or '':<16} {took}")


def seconds_per_step(tasks: list[TaskState]) -> dict[str, float]:
    """Sums the tasks' durations over the five steps, in seconds."""
    totals = dict.fromkeys(STEPS, 0.0)
    for task in tasks:
        step = task.task_id.split(".")[0]
        if step in totals:
            totals[step] = round(totals[step] + (task.seconds or 0.0), 1)
    return totals


def _short(sku: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in sku)
    return printable if len(printable) <= 12 else f"{printable[:11]}…"


def print_report(result: dict[str, Any]) -> None:
    """Prints what a person wants to know about the run."""
    verdict = result["verdict"]
    names = ("hit_rate@10", "mrr@10", "hit_rate@20", "mrr@20")
    say(f"\n  {'':<16}" + "".join(f"{name:>14}" for name in names))
    for name, row in {"this model": result["metrics"], **result["baselines"]}.items():
        say(f"  {name:<16}" + "".join(f"{row[m]:>14.4f}" if m in row else f"{'':>14}" for m in names))
    if moment := result["trained_before"]:
        say(f"\n  not trained anew: the same data, code and settings were trained on at {moment}")
    say(f"\n  verdict: {'APPROVED' if verdict['approved'] else 'REJECTED'}")
    for check in verdict["checks"]:
        if check["status"] == "failed":
            say(f"    {check['name']}: {check['reason']}")
    if entry := result["registered"]:
        say(f"  registry: version {entry['version']} of {entry['group_name']}, {entry['approval']}")
    for answer in result["recommendations"]:
        say(f"\n  someone looked at {', '.join(map(_short, answer['session'][-4:]))}")
        say(f"    recommended     {', '.join(map(_short, answer['skus']))}   ({answer['milliseconds']} ms)")
    say("\n  seconds: " + ", ".join(f"{step} {took:.0f}" for step, took in result["seconds"].items()))
