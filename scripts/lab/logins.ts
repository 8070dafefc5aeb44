import { randomBytes } from 'node:crypto';
import pg from 'pg';

export interface Logins {
  apiUrl: string;
  loaderUrl: string;
}

const LOGINS = { lab_api: 'ingest_api', lab_loader: 'ingest_loader', lab_reader: 'score_reader' } as const;

/**
 * The migrations make roles that cannot log in; here they get users, as an operator would make them.
 * Passwords are new at every start, so none has to be kept.
 */
export async function makeLogins(superuserUrl: string): Promise<Logins> {
  const client = new pg.Client({ connectionString: superuserUrl });
  await client.connect();
  try {
    for (const [login, role] of Object.entries(LOGINS)) {
      const { rowCount } = await client.query('SELECT FROM pg_roles WHERE rolname = $1', [login]);
      if (rowCount === 0) await client.query(`CREATE ROLE ${login} LOGIN IN ROLE ${role}`);
    }
    return {
      apiUrl: await urlWithNewPassword(client, superuserUrl, 'lab_api'),
      loaderUrl: await urlWithNewPassword(client, superuserUrl, 'lab_loader'),
    };
  } finally {
    await client.end();
  }
}

async function urlWithNewPassword(
  client: pg.Client,
  superuserUrl: string,
  login: keyof typeof LOGINS,
): Promise<string> {
  const password = randomBytes(18).toString('hex');
  await client.query(`ALTER ROLE ${login} PASSWORD '${password}'`);
  const url = new URL(superuserUrl);
  url.username = login;
  url.password = password;
  return url.href;
}
