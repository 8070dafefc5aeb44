import type pg from 'pg';

/** Ends a connection without waiting for the server, which may never answer again; queries under way are rejected. */
export function destroyConnection(client: pg.Client, reason: string): void {
  const { connection } = client as unknown as { connection: { stream: { destroy(error: Error): void } } };
  connection.stream.destroy(new Error(`Connection terminated: ${reason}`));
}
