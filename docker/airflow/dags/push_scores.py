"""Scores a model and pushes the result with the operator PushScores (docker/airflow/plugins/score_ingest_operator.py).

Airflow's run_id is the run key: a cleared push continues where it stopped; if the scoring task is cleared too, the new files
become a new revision of the same run. After 75 (network, service busy) the push is retried and sends only what is missing.
After 65 (bad data, or a gate), 2 and 77 (configuration, token) it fails at once, because a retry cannot help.
"""

from datetime import timedelta
import os

from airflow.sdk import DAG, task
from airflow.providers.standard.operators.bash import BashOperator
from score_ingest_operator import PushScores

MODEL = "churn"
OUT = os.environ.get("SCORES_DIR", "/data/scores") + "/" + MODEL + "/{{ run_id }}"

with DAG(
    dag_id="push_scores",
    description="Score, push, wait until published, and report what was published",
    schedule=None,
    catchup=False,
    default_args={
        "retries": 20,
        "retry_delay": timedelta(seconds=int(os.environ.get("PUSH_RETRY_DELAY_SECONDS", "60"))),
    },
) as dag:
    # A stand-in for the batch job. Each task has its own working directory, so the path is absolute.
    score = BashOperator(
        task_id="score",
        bash_command=f"""
            mkdir -p "{OUT}" && cd "{OUT}"
            awk 'BEGIN {{ for (i = 1; i <= {os.environ.get("SCORES_ROWS", "1000")}; i++)
                printf "{{\\"pk\\": \\"%d\\", \\"score\\": \\"%.3f\\"}}\\n", i, i % 1000 / 1000 }}' > part-1.jsonl.tmp
            mv part-1.jsonl.tmp part-1.jsonl
        """,
    )

    # Holds no worker while the service loads. Fails when readers see another run, because a later one was published before.
    push = PushScores(
        task_id="push",
        directory=OUT,
        model=MODEL,
        env={"UPLOADER_REQUIRE_SHOWN": "true"},
        deferrable=True,
        poll_seconds=5,
    )

    @task
    def tell(pushed: dict) -> str:
        run = pushed["runs"][0]
        return f"{run['model']} {run['run']}: revision {run['revision']} is {run['result']}, {run['rows']} rows"

    score >> push >> tell(push.output)
