import { HttpFault } from '../net/http-fault.ts';
import { type RetryOptions, retrying } from '../net/retrying.ts';
import { refuseChanged } from '../source/hash-run.ts';
import { UploaderError } from '../uploader-error.ts';
import { type SendOptions, sendOnce } from './send-once.ts';

/** Two clients that push the same file get in each other's way a few times, and then one is through. */
const MOST_CONFLICTS_IN_A_ROW = 10;

/** Sends a file to its end, over as many tries as it takes. Throws what retrying() throws. */
export async function sendFile(
  send: SendOptions,
  retries: Omit<RetryOptions, 'asked' | 'madeProgress'>,
): Promise<void> {
  let acknowledgedBytes = -1;
  let bytesAtLastFault = -1;
  let conflicts = 0;
  let { offsetBytes } = send; // for the first try only
  const onAcknowledged = (offsetBytes: number) => {
    acknowledgedBytes = Math.max(acknowledgedBytes, offsetBytes);
    send.onAcknowledged(offsetBytes);
  };
  const attempt = async () => {
    try {
      await refuseChanged(send.file);
      await sendOnce({ ...send, offsetBytes, onAcknowledged });
    } catch (error) {
      offsetBytes = undefined;
      const conflict = error instanceof HttpFault && error.status === 409;
      conflicts = conflict ? conflicts + 1 : 0;
      if (conflict && conflicts > MOST_CONFLICTS_IN_A_ROW) {
        throw new UploaderError(
          'bug',
          `${error.message}, although each try began at the service's own offset.`,
          {
            cause: error,
          },
        );
      }
      throw error;
    }
    await refuseChanged(send.file);
  };
  const madeProgress = () => {
    const moved = acknowledgedBytes > bytesAtLastFault;
    bytesAtLastFault = acknowledgedBytes;
    return moved;
  };
  await retrying(attempt, { ...retries, asked: 'upload', madeProgress });
}
