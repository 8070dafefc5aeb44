import { startTimeLimit, useTlsIdentity } from '../http/exchange.ts';
import type { Terminal } from '../progress/reporter.ts';
import { formatDuration } from '../progress/view.ts';
import { type Flags, loadSettings, type Settings } from '../settings/settings.ts';
import { currentToken } from '../settings/token.ts';
import { uploaderVersion } from '../version.ts';
import type { Retries, ServiceAddress } from './client.ts';

/** What a command has that asks the service a few things and has no progress to show. */
export type ServiceSession = {
  settings: Settings;
  service: ServiceAddress;
  retries: Retries;
  say: (sentence: string) => void;
  /** To stdout, unless that is kept for the JSON. */
  print: (text: string) => void;
};

/** Where the service is, and who we are to it. */
export function serviceAddress(settings: Settings): ServiceAddress {
  useTlsIdentity(settings);
  const { url, stallTimeoutMs } = settings;
  let { token } = settings;
  return {
    url,
    get token() {
      token = currentToken(settings.tokenSource, token);
      return token;
    },
    stallTimeoutMs,
    userAgent: `uploader/${uploaderVersion()}`,
  };
}

export function openServiceSession(
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
  longestMs = Number.POSITIVE_INFINITY,
): ServiceSession {
  const settings = loadSettings(flags, terminal.env);
  const limit = startTimeLimit(Math.min(settings.maxDurationMs, longestMs), interrupt);
  const say = (sentence: string) => terminal.writeError(`${sentence}\n`);
  return {
    settings,
    service: serviceAddress(settings),
    say,
    print: settings.json ? () => {} : (text) => terminal.writeOut(`${text}\n`),
    retries: {
      signal: limit.signal,
      limit,
      onPause: (fault, pauseMs) => say(`${fault.message}; next try in ${formatDuration(pauseMs)}`),
    },
  };
}
