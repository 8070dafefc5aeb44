"""How the example DAG push_scores_container.py ends after each exit code of its pod: verify-airflow.ts runs this."""

from importlib.util import module_from_spec, spec_from_file_location
import sys
from unittest.mock import MagicMock

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from kubernetes.client import models as k8s

spec = spec_from_file_location("push_scores_container", sys.argv[1])
example = module_from_spec(spec)
spec.loader.exec_module(example)
push = example.push
push.client = push.pod_manager = MagicMock()  # there is no cluster here; Airflow asks it for events, and to delete the pod


def end_of(exit_code: int) -> str:
    ended = k8s.V1ContainerState(terminated=k8s.V1ContainerStateTerminated(exit_code=exit_code))
    status = k8s.V1ContainerStatus(
        name=push.base_container_name, state=ended, image="", image_id="", ready=False, restart_count=0
    )
    pod = k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="uploader", annotations={}),
        spec=k8s.V1PodSpec(containers=[k8s.V1Container(name=push.base_container_name)]),
        status=k8s.V1PodStatus(phase="Failed" if exit_code else "Succeeded", container_statuses=[status]),
    )
    try:
        push.cleanup(pod, pod)
    except AirflowFailException:
        return "fails"
    except AirflowException:
        return "is retried"
    return "succeeds"


for exit_code in (0, 1, 2, 65, 66, 69, 75, 77, 130, 137, 143):
    print(exit_code, end_of(exit_code))
