"""Scores a model once a month and pushes the result: no glue around `uploader push`.

The connection `score_ingest` holds the service's address as its host and the token as its password. The run is
named by Airflow's run_id: clear the task, and it goes on where it was; clear the task that scores too, and the new
files become a new revision of the same run.

Every exit code but 0 is retried. 75 (network, service busy) is what retries are for; they send only what is missing.
65 (bad data), 2 and 77 (configuration) cannot be helped by a retry, and cost a second each: the service remembers.
"""

from datetime import timedelta
import os

from airflow.sdk import DAG, task
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.bash import BashSensor

MODEL = "churn"
OUT = os.environ.get("SCORES_DIR", "/data/scores") + "/" + MODEL + "/{{ run_id }}"

# Passwords of connections are masked in Airflow's logs and pages. BashSensor takes these for its whole environment.
SERVICE = {
    "UPLOADER_URL": "{{ conn.score_ingest.host }}",
    "UPLOADER_TOKEN": "{{ conn.score_ingest.password }}",
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/tmp"),
}

with DAG(
    dag_id="push_scores",
    description="Score, push, wait until published, and tell what was published",
    schedule=None,
    catchup=False,
    default_args={
        "retries": 20,
        "retry_delay": timedelta(seconds=int(os.environ.get("PUSH_RETRY_DELAY_SECONDS", "60"))),
    },
) as dag:
    # Stands for the batch job. Each task has its own working directory, so the path is absolute.
    score = BashOperator(
        task_id="score",
        bash_command=f"""
            mkdir -p "{OUT}" && cd "{OUT}"
            awk 'BEGIN {{ for (i = 1; i <= {os.environ.get("SCORES_ROWS", "1000")}; i++)
                printf "{{\\"pk\\": \\"%d\\", \\"score\\": \\"%.3f\\"}}\\n", i, i % 1000 / 1000 }}' > part-1.jsonl.tmp
            mv part-1.jsonl.tmp part-1.jsonl
        """,
    )

    # Ends when all is received. The last line of its output, the result as JSON, is its XCom. A run that was triggered
    # by hand or by an asset has no date, and `ds` is not even defined then.
    push = BashOperator(
        task_id="push",
        bash_command=f"""
            uploader push "{OUT}" --model {MODEL} --run "{{{{ run_id }}}}" \\
                --as-of "{{{{ ds | default('') }}}}" --no-wait --json
        """,
        env=SERVICE,
        append_env=True,
    )

    # Holds no worker while the service loads. 75: not settled yet, look again; 65: a human must act, or readers see
    # another run (a later one was published before).
    wait = BashSensor(
        task_id="wait",
        bash_command=f'uploader status {MODEL} "{{{{ run_id }}}}" --require-shown',
        env=SERVICE,
        retry_exit_code=75,
        mode="reschedule",
        poke_interval=timedelta(seconds=5),
        timeout=timedelta(hours=6),
    )

    @task
    def tell(pushed: str) -> str:
        import json

        run = json.loads(pushed)["runs"][0]
        return f"{run['model']} {run['run']}: revision {run['revision']}, {run['bytesSent']} of {run['bytesTotal']} bytes sent"

    score >> push >> wait >> tell(push.output)
