/** What `startPostgres` tells the host process, which holds the server as its child. */
export type HostOrder = StartOrder | { kind: 'stop' };

export interface StartOrder {
  kind: 'start';
  /** The cluster itself (PGDATA), made by initdb when it is not there yet. */
  clusterDir: string;
  password: string;
  port: number;
  /** A folder to remove when the server has ended. */
  removeAtEnd?: string;
  settings: Record<string, string>;
}

/** What the host answers. `failed` carries the server's own last lines. */
export type HostReport = { kind: 'ready'; postmasterPid: number } | { kind: 'failed'; reason: string };
