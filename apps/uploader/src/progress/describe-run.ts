import { describeLoad } from './describe-load.ts';
import { formatBytes, formatDuration, formatPercent } from './format.ts';
import { bytesThere, type RunView } from './push-view.ts';

/** One run in one line, without its label. */
export function describeRun(view: RunView, bytesPerSecond: number): string {
  const total = formatBytes(view.totalBytes);
  switch (view.stage) {
    case 'waiting':
      return 'waiting for its turn';
    case 'checking':
      return `checking ${formatBytes(view.hashedBytes)} of ${total} (${formatPercent(view.hashedBytes, view.totalBytes)})`;
    case 'hashing':
      return `reading ${formatBytes(view.hashedBytes)} of ${total} (${formatPercent(view.hashedBytes, view.totalBytes)})`;
    case 'declaring':
      return 'declaring its files to the service';
    case 'sending': {
      const there = bytesThere(view);
      const left =
        bytesPerSecond > 0
          ? `, ${formatDuration(((view.totalBytes - there) / bytesPerSecond) * 1000)} left`
          : '';
      const files = view.filesTotal > 1 ? `${view.filesReceived} of ${view.filesTotal} files, ` : '';
      return `sending ${files}${formatBytes(there)} of ${total} (${formatPercent(there, view.totalBytes)}), ${formatBytes(bytesPerSecond)}/s${left}`;
    }
    case 'in_service':
      return view.load
        ? `${describeLoad(view.load, view.totalBytes)}${untilPublished(view)}`
        : `${view.serviceState ?? 'waiting'} in the service`;
    case 'done':
      return view.serviceState ?? 'done';
  }
}

function untilPublished({ progress }: RunView): string {
  const seconds = progress?.loadEtaSeconds;
  return typeof seconds === 'number' ? `, ${formatDuration(seconds * 1000)} until it is published` : '';
}
