"""Pushes from a container of its own, for workers on which nothing may be installed.

The image holds the uploader; the scores are on a volume. The result becomes the task's XCom, because the uploader writes
/airflow/xcom/return.json if /airflow/xcom exists. Kubernetes mounts the token as a file from a secret.

The task fails at once when a retry cannot help (2, 65, 77), and is retried after every other exit code. On workers that may run
the uploader, PushScores does more (push_scores.py).
"""

from datetime import timedelta

from airflow.sdk import DAG
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from kubernetes.client import models as k8s

MODEL = "churn"


class PushInPod(KubernetesPodOperator):
    """Fails at once after the exit codes of skip_on_exit_code: Airflow itself can skip the task, or retry them all."""

    def cleanup(self, *args, **kwargs):
        try:
            super().cleanup(*args, **kwargs)
        except AirflowSkipException as ended:
            raise AirflowFailException(f"A retry cannot help; the task's log and XCom say why. {ended}") from ended


with DAG(
    dag_id="push_scores_container",
    description="Push from a pod, with the result as XCom",
    schedule=None,
    catchup=False,
) as dag:
    push = PushInPod(
        task_id="push",
        name="uploader",
        image="score-ingest/uploader:latest",
        # No shell: an argument stays one argument, whatever characters the run's name has.
        arguments=["push", "/data/churn/{{ run_id }}", "--model", MODEL, "--run", "{{ run_id }}", "--require-shown"],
        env_vars={
            "UPLOADER_URL": "{{ conn.score_ingest.host }}",
            "UPLOADER_TOKEN_FILE": "/run/secrets/score-ingest/token",
            # A pod keeps no state and needs none: it only hashes the files again.
            "UPLOADER_STATE_DIR": "/tmp/uploader",
        },
        volumes=[
            k8s.V1Volume(
                name="scores",
                persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(claim_name="scores", read_only=True),
            ),
            k8s.V1Volume(name="token", secret=k8s.V1SecretVolumeSource(secret_name="score-ingest-token")),
        ],
        volume_mounts=[
            k8s.V1VolumeMount(name="scores", mount_path="/data", read_only=True),
            k8s.V1VolumeMount(name="token", mount_path="/run/secrets/score-ingest", read_only=True),
        ],
        do_xcom_push=True,
        skip_on_exit_code=(2, 65, 77),
        retries=20,
        retry_delay=timedelta(minutes=1),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(minutes=15),
    )
