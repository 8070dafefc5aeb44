/** A part of the lab that is up and has to be stopped before the lab ends. */
export interface Stoppable {
  name: string;
  stop(): Promise<void>;
}

/** Last started, first stopped: nobody loses what it stands on. One that fails to stop does not keep the others up. */
export async function stopInReverse(parts: Stoppable[]): Promise<void> {
  for (let part = parts.pop(); part !== undefined; part = parts.pop()) {
    const { name } = part;
    await part.stop().catch((error: unknown) => console.error(`lab: ${name} did not stop well: ${error}`));
  }
}
