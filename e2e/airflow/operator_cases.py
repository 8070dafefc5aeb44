"""One DAG for each way in which a push by PushScores can end: verify-airflow.ts runs them."""

from datetime import timedelta
import os

from airflow.sdk import DAG, Asset, task
from score_ingest_operator import PushScores

SLOW = {"UPLOADER_BWLIMIT": "16KiB", "UPLOADER_COMPRESS": "off"}
CASES = {
    "good": {},
    "deferred": {"deferrable": True, "poll_seconds": 5},
    "bad": {},
    "bad_deferred": {"deferrable": True, "poll_seconds": 5},
    "usage": {"as_of": "soon"},
    "no_program": {"executable": "no-such-uploader"},
    "token": {"conn_id": "wrong_token"},
    "network": {"conn_id": "nobody", "env": {"UPLOADER_MAX_DURATION": "1s"}},
    "behind": {"as_of": "2020-01-01"},
    "not_shown": {"as_of": "2020-01-01", "env": {"UPLOADER_REQUIRE_SHOWN": "true"}, "deferrable": True, "poll_seconds": 5},
    "timed_out": {"env": SLOW, "execution_timeout": timedelta(seconds=10)},
    "stopped": {"env": SLOW},
}

for name, arguments in CASES.items():
    with DAG(dag_id=name, schedule=None):
        PushScores(
            task_id="push",
            directory=os.environ["SCORES_DIR"] + "/" + ("bad" if name.startswith("bad") else "good"),
            model="later" if name in ("behind", "not_shown") else f"of_{name}",
            **{"retries": 1, "retry_delay": timedelta(seconds=1), **arguments},
        )

with DAG(dag_id="reader", schedule=[Asset("scores.of_good")]):

    @task
    def read(triggering_asset_events=None):
        print([event.extra for event in triggering_asset_events[Asset("scores.of_good")]])

    read()
