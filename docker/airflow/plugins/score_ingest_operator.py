"""PushScores: `uploader push` as an Airflow 3 operator. Copy this file into the plugins folder of every component.

    PushScores(task_id="push", directory="/data/scores/churn/{{ run_id }}", model="churn", deferrable=True)

The XCom is the uploader's result, also when the task fails (docs/uploader.md, Airflow). The task fails at once when a retry
cannot help (2, 65, 77), and is retried after every other exit code. DAGs with schedule=[Asset("scores.churn")] run when
readers see the run.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
from contextlib import suppress
from urllib.parse import quote, urlsplit

import httpx
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowTaskTimeout
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import Asset, AssetAlias, BaseOperator, BaseOperatorLink, Connection
from airflow.triggers.base import BaseTrigger, TriggerEvent

RETRY_CANNOT_HELP = {2: "usage or configuration", 65: "bad data, or a gate holds the run", 77: "the token may not do this"}
NOT_ENDED = {"receiving", "queued", "loading"}


def address_of(connection) -> str:
    """As Airflow's HttpHook reads it: the host may be a whole address; otherwise schema is the protocol."""
    host = connection.host or ""
    if "://" not in host:
        host = f"{connection.schema or ('https' if connection.conn_type == 'https' else 'http')}://{host}"
    address = urlsplit(host)
    port = f":{connection.port}" if connection.port else ""
    return f"{address.scheme}://{address.netloc}{port}{address.path.rstrip('/')}"


def ca_of(connection) -> str | None:
    return json.loads(connection.extra or "{}").get("ca")  # extra_dejson must not be used in a trigger


class RunPage(BaseOperatorLink):
    name = "Run in score-ingest"

    def get_link(self, operator, *, ti_key) -> str:
        run = f"{quote(operator.model, safe='')}/{quote(operator.run_key, safe='')}"
        return f"{address_of(Connection.get(operator.conn_id))}/#/runs/{run}"


class RunEnded(BaseTrigger):
    """Waits in the triggerer, without a worker slot, until the load of a run has ended or the service refuses to say."""

    def __init__(self, conn_id: str, model: str, run_key: str, poll_seconds: float):
        super().__init__()
        self.arguments = {"conn_id": conn_id, "model": model, "run_key": run_key, "poll_seconds": poll_seconds}

    def serialize(self):
        return f"{RunEnded.__module__}.{RunEnded.__qualname__}", self.arguments

    async def run(self):
        conn_id, model, run_key, poll_seconds = self.arguments.values()
        connection = await Connection.async_get(conn_id)
        url = f"{address_of(connection)}/v1/models/{quote(model, safe='')}/runs/{quote(run_key, safe='')}"
        ca = ca_of(connection)
        async with httpx.AsyncClient(
            headers={"Authorization": f"Bearer {connection.password}"},
            timeout=60,
            verify=ssl.create_default_context(cafile=ca) if ca else True,
        ) as client:
            while True:
                # First, because Airflow 3.3 counts a trigger that fires at once, before the executor has reported the end of the
                # first part of the task, as a failed try.
                await asyncio.sleep(poll_seconds)
                try:
                    answer = await client.get(url)
                    state = answer.json()["state"] if answer.is_success else f"HTTP {answer.status_code}"
                    is_busy = answer.status_code in (408, 425, 429) or answer.status_code >= 500
                    if state not in NOT_ENDED and not is_busy:
                        break
                except httpx.TransportError as fault:
                    state = repr(fault)
                self.log.info("%s/%s: %s", model, run_key, state)
        yield TriggerEvent(state)


class PushScores(BaseOperator):
    """
    :param directory: the folder with the files of the run.
    :param run_key: the run. Airflow's run_id: a cleared task continues where it stopped.
    :param as_of: the date of the data. Runs that an asset or a person triggered may have none.
    :param conn_id: the address and, as the password, the token; `{"ca": "/path.pem"}` in extra for your own authority.
    :param env: settings of the uploader, such as {"UPLOADER_REQUIRE_SHOWN": "true"}.
    :param deferrable: wait in the triggerer while the service loads; execution_timeout also limits that wait.
    """

    template_fields = ("directory", "model", "run_key", "as_of", "env")
    operator_extra_links = (RunPage(),)

    def __init__(
        self,
        *,
        directory: str,
        model: str,
        run_key: str = "{{ run_id }}",
        as_of: str = "{{ ds | default('') }}",
        conn_id: str = "score_ingest",
        executable: str = "uploader",
        env: dict[str, str] | None = None,
        deferrable: bool = False,
        poll_seconds: float = 15,
        **kwargs,
    ):
        # An alias, because the event of a plain outlet follows every success, also that of a run which readers do not see.
        super().__init__(**{"outlets": [AssetAlias(f"scores.{model}")], **kwargs})
        self.directory, self.model, self.run_key, self.as_of = directory, model, run_key, as_of
        self.conn_id, self.executable, self.env = conn_id, executable, env
        self.deferrable, self.poll_seconds = deferrable, poll_seconds
        self.hook = SubprocessHook()

    def execute(self, context, event=None):
        page = RunPage().get_link(self, ti_key=None)
        context["ti"].xcom_push(key=RunPage().xcom_key, value=page)  # Airflow itself stores it only when the task has ended
        may_defer = self.deferrable and event is None
        try:
            code, last_line = self.run_uploader(wait=not may_defer)
        except AirflowTaskTimeout:
            if self.hook.sub_process:
                self.on_kill()
                rest, _ = self.hook.sub_process.communicate(timeout=30)
                self.keep(context, rest.decode(errors="replace").strip().rpartition("\n")[2], 143)
            raise
        result = self.keep(context, last_line, code)
        if may_defer and code == 0 and result["result"] != "published":
            # Resumes with the same push: it has nothing to send, and its result is how the load ended.
            trigger = RunEnded(self.conn_id, self.model, self.run_key, self.poll_seconds)
            self.defer(trigger=trigger, method_name="execute", timeout=self.execution_timeout)
        run = next(iter(result["runs"]), {})
        if code != 0:
            fault = run.get("error") or result.get("error") or {}
            message = f"The uploader's exit code is {code}. {fault.get('detail', '')} {page}"
            raise AirflowFailException(message) if code in RETRY_CANNOT_HELP else AirflowException(message)
        if run["result"] == "published":
            asset = Asset(f"scores.{self.model}")
            extra = {name: run[name] for name in ("model", "run", "revision", "rows")}
            context["outlet_events"][AssetAlias(asset.name)].add(asset, extra=extra)
        return result

    def run_uploader(self, wait: bool) -> tuple[int, str]:
        program = shutil.which(self.executable)
        if program is None:
            fault = {"code": "usage", "detail": f"There is no program {self.executable!r} on the PATH of this worker."}
            return 2, json.dumps({"result": "usage", "exitCode": 2, "runs": [], "error": fault})
        connection = Connection.get(self.conn_id)
        ca = ca_of(connection)
        env = {
            **os.environ,
            "UPLOADER_URL": address_of(connection),
            "UPLOADER_TOKEN": connection.password or "",
            **({"UPLOADER_CA": ca} if ca else {}),
            **(self.env or {}),
            **({} if wait else {"UPLOADER_WAIT": "false", "UPLOADER_REQUIRE_SHOWN": "false"}),
        }
        of_run = ["--model", self.model, "--run", self.run_key, "--as-of", self.as_of, "--json"]
        return self.hook.run_command([program, "push", self.directory, *of_run], env=env)

    def keep(self, context, last_line: str, code: int) -> dict:
        """The result as XCom at once, because Airflow keeps none of a task that fails."""
        try:
            result = json.loads(last_line)
        except ValueError:  # SIGKILL, or a program that does not start: the last line is another one
            word = "interrupted" if code < 0 or code > 128 else "bug"
            result = {"result": word, "exitCode": code, "runs": [], "error": {"code": word, "detail": last_line}}
        if self.do_xcom_push:
            context["ti"].xcom_push(key="return_value", value=result)
        return result

    def on_kill(self):
        with suppress(ProcessLookupError):  # it has ended already
            self.hook.send_sigterm()
