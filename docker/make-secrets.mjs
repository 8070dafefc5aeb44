// Creates the passwords of a compose project once; existing files stay. Each file is in a volume that only its users
// mount, so the service never sees the owner's password. Without dependencies, because it runs in the image.
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

const ROOT = process.env.SECRETS_ROOT ?? '/secrets';
const HOST = process.env.SECRETS_DATABASE_HOST ?? 'postgres:5432';

/** Readable by any user: access is decided by mounting the volume. */
function write(name, text) {
  writeFileSync(`${ROOT}/${name}`, text, { mode: 0o444, flag: 'wx' });
}

function makeLogin(folder, user) {
  if (existsSync(`${ROOT}/${folder}/database-url`)) return;
  if (!existsSync(`${ROOT}/${folder}/password`)) write(`${folder}/password`, randomBytes(24).toString('hex'));
  const password = readFileSync(`${ROOT}/${folder}/password`, 'utf8');
  write(`${folder}/database-url`, `postgres://${user}:${password}@${HOST}/scores`);
}

if (!existsSync(`${ROOT}/owner/superuser-password`))
  write('owner/superuser-password', randomBytes(24).toString('hex'));
if (!existsSync(`${ROOT}/monitoring/grafana-password`))
  write('monitoring/grafana-password', randomBytes(12).toString('hex'));
makeLogin('owner', 'ingest_owner');
makeLogin('service', 'ingest_service');
makeLogin('loader', 'ingest_load');
console.log('the secrets exist');
