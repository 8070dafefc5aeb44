// For `NODE_OPTIONS=--import`: says on stderr each folder that the program reads.
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

const { readdir } = fs;
Object.assign(fs, {
  readdir: (...args: Parameters<typeof readdir>) => {
    process.stderr.write(`readdir ${args[0]}\n`);
    return readdir(...args);
  },
});
syncBuiltinESMExports();
