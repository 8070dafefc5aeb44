// Creates the passwords of a compose project, and keeps those that exist. Each file is in a volume that only its users
// mount, so the service cannot read the owner's password. Runs in the image, without dependencies.
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

const ROOT = process.env.SECRETS_ROOT ?? '/secrets';
const HOST = process.env.SECRETS_DATABASE_HOST ?? 'postgres:5432';

/** Readable by every user, because containers run as different users. The mount decides who can read it. */
function write(name, text) {
  writeFileSync(`${ROOT}/${name}`, text, { mode: 0o444, flag: 'wx' });
}

function makeLogin(folder, user) {
  if (existsSync(`${ROOT}/${folder}/database-url`)) return;
  if (!existsSync(`${ROOT}/${folder}/password`)) write(`${folder}/password`, randomBytes(24).toString('hex'));
  const password = readFileSync(`${ROOT}/${folder}/password`, 'utf8');
  write(`${folder}/database-url`, `postgres://${user}:${password}@${HOST}/scores`);
}

/** Of the bucket that the profile s3 serves, in the form of the AWS SDKs. */
function makeStoreCredentials() {
  if (existsSync(`${ROOT}/store/credentials`)) return;
  const [id, secret] = [randomBytes(10).toString('hex'), randomBytes(20).toString('hex')];
  write('store/credentials', `[default]\naws_access_key_id = ${id}\naws_secret_access_key = ${secret}\n`);
}

if (!existsSync(`${ROOT}/owner/superuser-password`))
  write('owner/superuser-password', randomBytes(24).toString('hex'));
if (!existsSync(`${ROOT}/monitoring/grafana-password`))
  write('monitoring/grafana-password', randomBytes(12).toString('hex'));
makeLogin('owner', 'ingest_owner');
makeLogin('service', 'ingest_service');
makeLogin('loader', 'ingest_load');
makeStoreCredentials();
console.log('All secrets exist.');
