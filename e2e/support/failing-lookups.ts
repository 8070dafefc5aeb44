// Loaded with --import before the uploader: names end in .test and are found on this host, after the first
// LOOKUPS_FAIL_WITH (codes, with commas) have failed.
import dns from 'node:dns';

const codes = (process.env.LOOKUPS_FAIL_WITH ?? '').split(',').filter((code) => code !== '');

type Callback = (error: Error | null, addresses?: Array<{ address: string; family: number }>) => void;

function lookup(name: string, _options: unknown, callback: Callback): void {
  const code = codes.shift();
  if (code === undefined) callback(null, [{ address: '127.0.0.1', family: 4 }]);
  else callback(Object.assign(new Error(`getaddrinfo ${code} ${name}`), { code }));
}

Object.assign(dns, { lookup });
