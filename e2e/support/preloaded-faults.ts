// Loaded with --import before the uploader. Two faults of the machine, each set by its environment variables:
//   LOOKUPS_FAIL_WITH                    the DNS lookups that fail first, as error codes separated by commas.
//                                        After them, every name resolves to this host.
//   CLOCK_JUMPS_AFTER_MS, CLOCK_JUMP_MS  when the wall clock jumps, counted from the start, and by how much:
//                                        a correction by a time server or an administrator.
import dns from 'node:dns';

const { LOOKUPS_FAIL_WITH, CLOCK_JUMPS_AFTER_MS, CLOCK_JUMP_MS } = process.env;
if (LOOKUPS_FAIL_WITH !== undefined) failLookups(LOOKUPS_FAIL_WITH.split(','));
if (CLOCK_JUMP_MS !== undefined) jumpClock(Number(CLOCK_JUMPS_AFTER_MS), Number(CLOCK_JUMP_MS));

function failLookups(codes: string[]): void {
  type Callback = (error: Error | null, addresses?: Array<{ address: string; family: number }>) => void;
  const lookup = (name: string, _options: unknown, callback: Callback) => {
    const code = codes.shift();
    if (code === undefined) callback(null, [{ address: '127.0.0.1', family: 4 }]);
    else callback(Object.assign(new Error(`getaddrinfo ${code} ${name}`), { code }));
  };
  Object.assign(dns, { lookup });
}

function jumpClock(afterMs: number, byMs: number): void {
  const RealDate = Date;
  const now = () => RealDate.now() + (performance.now() > afterMs ? byMs : 0);
  globalThis.Date = new Proxy(RealDate, {
    construct: (target, parts) => Reflect.construct(target, parts.length === 0 ? [now()] : parts),
    get: (target, name) => (name === 'now' ? now : Reflect.get(target, name)),
  });
}
