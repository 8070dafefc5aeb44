"""Scores a model and pushes the result with `uploader push`.

The connection `score_ingest` holds the service's address as its host and the token as its password. Airflow's run_id is
the run key: a cleared push continues where it stopped; if the scoring task is cleared too, the new files become a new
revision of the same run.

Airflow retries every exit code of the uploader but 0. After 75 (network, service busy) a retry sends only what is missing.
After 65 (bad data), 2 and 77 (configuration) a retry cannot help and takes a second, because the service remembers.
"""

from datetime import timedelta
import os

from airflow.sdk import DAG, task
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.bash import BashSensor

MODEL = "churn"
OUT = os.environ.get("SCORES_DIR", "/data/scores") + "/" + MODEL + "/{{ run_id }}"

# Airflow masks passwords of connections in logs and pages. This is the whole environment of a BashSensor.
SERVICE = {
    "UPLOADER_URL": "{{ conn.score_ingest.host }}",
    "UPLOADER_TOKEN": "{{ conn.score_ingest.password }}",
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/tmp"),
}

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

    # Ends when all is received. The last line of its output, the result as JSON, is its XCom. A run triggered by hand or by
    # an asset has no date; then `ds` is not defined.
    push = BashOperator(
        task_id="push",
        bash_command=f"""
            uploader push "{OUT}" --model {MODEL} --run "{{{{ run_id }}}}" \\
                --as-of "{{{{ ds | default('') }}}}" --no-wait --json
        """,
        env=SERVICE,
        append_env=True,
    )

    # Holds no worker while the service loads. 75: not loaded yet, check again. 65: a person must act, or readers see another
    # run, because a later one was published before.
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
