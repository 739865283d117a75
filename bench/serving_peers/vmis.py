"""VMIS-kNN (Kersbergen, Sprangers and Schelter, SIGMOD 2022) behind the same server, written from the paper.

Of each item the M most recent sessions are indexed. Sessions that share items with the one that is asked for
are weighed by where in it the items are, the K best of them vote for their items.
"""

import heapq
import json
import math

import numpy as np

_M, _K, _LAST = 500, 100, 10
_file = np.load("peer.npz", allow_pickle=False)
_skus = [str(sku) for sku in _file["skus"]]
_ids = {sku: number for number, sku in enumerate(_skus)}
_sessions = [part.tolist() for part in np.split(_file["items"], _file["offsets"][1:-1])]
_index: list[list[int]] = [[] for _ in _skus]
for _number in range(len(_sessions) - 1, -1, -1):  # the newest first
    for _item in set(_sessions[_number]):
        if len(_index[_item]) < _M:
            _index[_item].append(_number)
_counts = np.bincount(_file["items"], minlength=len(_skus))
_idf = np.log(len(_sessions) / np.maximum(1, _counts)).tolist()


def recommend(session: list[int], k: int) -> list[tuple[int, float]]:
    """Returns the k best items of an evolving session, oldest first, with their scores."""
    places = {item: place for place, item in enumerate(session, 1)}
    similarity: dict[int, float] = {}
    oldest: list[int] = []  # of the M sessions that are kept
    for item, place in sorted(places.items(), key=lambda pair: -pair[1]):
        for number in _index[item]:
            if number in similarity:
                similarity[number] += place / len(session)
            elif len(similarity) < _M:
                similarity[number] = place / len(session)
                heapq.heappush(oldest, number)
            elif number > oldest[0]:
                del similarity[heapq.heapreplace(oldest, number)]
                similarity[number] = place / len(session)
            else:
                break  # the rest of this item's sessions is older still
    scores: dict[int, float] = {}
    for number, weight in heapq.nlargest(_K, similarity.items(), key=lambda pair: pair[1]):
        newest = max(places.get(item, 0) for item in _sessions[number])
        weight *= max(0.0, 1 - 0.1 * (len(session) - newest))
        for item in set(_sessions[number]):
            scores[item] = scores.get(item, 0.0) + weight * _idf[item]
    scores.pop(session[-1] if session else -1, None)
    return heapq.nlargest(k, scores.items(), key=lambda pair: pair[1])


def handler(data, context):
    """Answers the requests of `code/inference.py`."""
    predictions = []
    for instance in json.load(data)["instances"]:
        known = [_ids[sku] for sku in instance["session"] if sku in _ids][-_LAST:]
        best = recommend(known, instance["k"])
        predictions.append(
            {
                "skus": [_skus[item] for item, _ in best],
                "scores": [float(f"{score:.5g}") for _, score in best if math.isfinite(score)],
                "fallback": "none",
            }
        )
    return json.dumps({"predictions": predictions}, separators=(",", ":")), "application/json"
