// A process that the test kills: it starts a temporary server in the given folder and prints the postmaster's pid.
import { startPostgres } from '../src/index.ts';

const [dataDir = ''] = process.argv.slice(2);
const postgres = await startPostgres({
  dataDir,
  temporary: true,
  settings: { fsync: 'off', shared_buffers: '16MB' },
});
console.log(postgres.pid);
