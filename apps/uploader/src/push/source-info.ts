import { hostname, userInfo } from 'node:os';

/** Who pushed, from where: for whoever asks later. Airflow's part is there when a task of it runs us. */
export function sourceInfo(env: NodeJS.ProcessEnv, version: string): Record<string, unknown> {
  const airflow = {
    dag_id: env.AIRFLOW_CTX_DAG_ID,
    task_id: env.AIRFLOW_CTX_TASK_ID,
    run_id: env.AIRFLOW_CTX_DAG_RUN_ID,
    try_number: env.AIRFLOW_CTX_TRY_NUMBER,
  };
  const known = Object.entries(airflow).filter(([, value]) => value);
  return {
    host: hostname(),
    user: userName(env),
    pid: process.pid,
    uploader: version,
    ...(known.length > 0 ? { airflow: Object.fromEntries(known) } : {}),
  };
}

function userName(env: NodeJS.ProcessEnv): string {
  try {
    return userInfo().username;
  } catch {
    // A container's user id often has no name.
    return env.USER ?? `uid ${process.getuid?.() ?? '?'}`;
  }
}
