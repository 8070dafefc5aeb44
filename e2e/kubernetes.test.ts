import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import type { Deployment } from 'kubernetes-types/apps/v1.d.ts';
import type { Job } from 'kubernetes-types/batch/v1.d.ts';
import type { ConfigMap, Container, PodSpec, Secret, Service } from 'kubernetes-types/core/v1.d.ts';
import type { ObjectMeta } from 'kubernetes-types/meta/v1.d.ts';
import type { PodDisruptionBudget } from 'kubernetes-types/policy/v1.d.ts';
import { parse, parseAllDocuments } from 'yaml';
import { SECRETS, VARIABLES } from '../apps/ingest-api/src/config.ts';

const FOLDER = path.join(import.meta.dirname, '../docker/kubernetes');
const EXAMPLES = ['secrets.example.yaml'];
/** The service's own grace (3 s), a request to the bucket at its end (40 s), and the preStop hook (5 s). */
const LONGEST_STOP_SECONDS = 48;

interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMeta & { readonly name: string };
}

interface Kustomization {
  readonly namespace: string;
  readonly resources: readonly string[];
  readonly images: readonly { readonly name: string; readonly newTag: string }[];
}

const read = (file: string) => readFileSync(path.join(FOLDER, file), 'utf8');

describe('docker/kubernetes', () => {
  const files = readdirSync(FOLDER).filter((file) => file !== 'kustomization.yaml');
  const kustomization: Kustomization = parse(read('kustomization.yaml'));
  const manifests = files.flatMap((file) =>
    parseAllDocuments(read(file)).map((document): Manifest => {
      expect(document.errors, file).to.deep.equal([]);
      return document.toJS();
    }),
  );
  const ofKind = <T>(kind: string) =>
    manifests.filter((manifest) => manifest.kind === kind) as (Manifest & T)[];
  const deployments = ofKind<Deployment>('Deployment');
  const pods = [...deployments, ...ofKind<Job>('Job')].map(({ metadata, spec }) => {
    const pod: PodSpec = spec?.template.spec ?? { containers: [] };
    const [container, ...more] = pod.containers;
    expect(more, metadata.name).to.deep.equal([]);
    if (container === undefined) throw new Error(`${metadata.name} has no container.`);
    return { name: metadata.name, labels: spec?.template.metadata?.labels ?? {}, pod, container };
  });

  it('has only fields that Kubernetes has, with values of their types', async function () {
    this.timeout(60_000);
    const lines = manifests.map((manifest, i) => {
      const group = manifest.apiVersion.includes('/') ? manifest.apiVersion : `core/${manifest.apiVersion}`;
      const types = import.meta.resolve(`kubernetes-types/${group.replace('.k8s.io', '')}.d.ts`);
      const type = `import(${JSON.stringify(fileURLToPath(types))}).${manifest.kind}`;
      return { start: `export const manifest${i}: ${type} = `, manifest };
    });
    const [first] = lines.filter(({ manifest }) => manifest.kind === 'Deployment');
    const code = [
      ...lines.map(({ start, manifest }) => `${start}${JSON.stringify(manifest)};`),
      '// @ts-expect-error: so that this test fails when it would find nothing',
      `${first?.start.replace(/manifest\d+/, 'wrong')}${JSON.stringify(first?.manifest).replace('"capabilities"', '"capability"')};`,
    ];
    const folder = await mkdtemp(path.join(tmpdir(), 'kubernetes-types-'));
    try {
      await writeFile(path.join(folder, 'manifests.ts'), code.join('\n'));
      const tsc = path.join(import.meta.dirname, '../node_modules/.bin/tsc');
      const options = [
        '--noEmit',
        '--strict',
        '--skipLibCheck',
        '--types',
        '',
        '--allowImportingTsExtensions',
      ];
      const { stdout } = await promisify(execFile)(
        tsc,
        [...options, '--module', 'esnext', '--moduleResolution', 'bundler', 'manifests.ts'],
        { cwd: folder },
      ).catch((error: { stdout: string }) => error);
      expect(stdout).to.equal('');
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('applies every file but the examples, in one namespace', () => {
    expect(kustomization.resources).to.have.members(files.filter((file) => !EXAMPLES.includes(file)));
    for (const { kind, metadata } of manifests)
      if (kind !== 'Namespace') expect(metadata.namespace, metadata.name).to.equal(kustomization.namespace);
  });

  it('sets only variables that ingest-api reads, and no secret', () => {
    const known = new Set<string>(['AWS_SHARED_CREDENTIALS_FILE', ...SECRETS.map((name) => `${name}_FILE`)]);
    for (const group of Object.values(VARIABLES).flat())
      for (const { name } of Object.values(group)) if (!SECRETS.includes(name)) known.add(name);
    const configs = ofKind<ConfigMap>('ConfigMap');
    for (const { data = {} } of configs) expect([...known]).to.include.members(Object.keys(data));
    for (const { name, container } of pods) {
      expect([...known], name).to.include.members((container.env ?? []).map((variable) => variable.name));
      for (const { configMapRef } of container.envFrom ?? [])
        expect(configs.map(({ metadata }) => metadata.name)).to.include(configMapRef?.name);
    }
  });

  it('confines every container: not root, read-only, no capabilities, bounded memory, a fixed version', () => {
    for (const { name, pod, container } of pods) {
      expect(pod.securityContext?.runAsNonRoot, name).to.equal(true);
      expect(pod.securityContext?.runAsUser, name).to.equal(1000);
      expect(pod.securityContext?.seccompProfile, name).to.deep.equal({ type: 'RuntimeDefault' });
      expect(pod.automountServiceAccountToken, name).to.equal(false);
      expect(container.securityContext, name).to.deep.equal({
        readOnlyRootFilesystem: true,
        allowPrivilegeEscalation: false,
        capabilities: { drop: ['ALL'] },
      });
      expect(container.resources?.limits?.memory, name).to.be.a('string');
      expect(container.resources?.requests, name).to.have.keys('cpu', 'memory');
      const [image, tag] = container.image?.split(':') ?? [];
      expect(kustomization.images).to.deep.equal([{ name: image, newName: image, newTag: tag }]);
      expect(tag, name).to.match(/^\d+\.\d+\.\d+$/);
    }
  });

  it('has no volume but secrets and /tmp, and gives each Pod its own login only', () => {
    const secrets = new Map(
      ofKind<Secret>('Secret').map(({ metadata, stringData = {} }) => [metadata.name, stringData]),
    );
    for (const [name, data] of secrets)
      for (const value of Object.values(data)) expect(value, name).to.include('CHANGE-ME');
    for (const { name, pod, container } of pods) {
      const component = name.replace('score-ingest-', '');
      const login = { service: 'service', loader: 'loader', migrate: 'owner' }[component];
      const mounted = (pod.volumes ?? []).flatMap(({ emptyDir, secret, ...rest }) => {
        expect(rest, name).to.have.keys('name');
        if (emptyDir !== undefined) expect(emptyDir.sizeLimit, name).to.be.a('string');
        return secret?.secretName ?? [];
      });
      const expected = [`score-ingest-${login}`, ...(component === 'migrate' ? [] : ['score-ingest-store'])];
      expect(mounted, name).to.have.members(expected);
      for (const secret of mounted) expect([...secrets.keys()]).to.include(secret);
      const url = container.env?.find((variable) => variable.name === 'DATABASE_URL_FILE')?.value ?? '';
      expect(secretOf(pod, container, path.dirname(url)), name).to.equal(`score-ingest-${login}`);
      expect(secrets.get(`score-ingest-${login}`), name).to.have.key(path.basename(url));
    }
  });

  it('keeps at least one service and loader when a node is drained, and lets each stop in order', () => {
    expect(deployments).to.have.length(2);
    for (const { metadata, spec } of deployments) {
      expect(spec?.replicas, metadata.name).to.be.at.least(2);
      const labels = spec?.template.metadata?.labels;
      expect(spec?.selector.matchLabels, metadata.name).to.deep.equal(labels);
      expect(spec?.template.spec?.topologySpreadConstraints?.[0]?.labelSelector?.matchLabels).to.deep.equal(
        labels,
      );
      const budget = ofKind<PodDisruptionBudget>('PodDisruptionBudget').find(
        (it) => it.metadata.name === metadata.name,
      );
      expect(budget?.spec?.selector?.matchLabels, metadata.name).to.deep.equal(labels);
      expect(spec?.template.spec?.terminationGracePeriodSeconds, metadata.name).to.be.above(
        LONGEST_STOP_SECONDS,
      );
    }
  });

  it('asks the probes of the service, and leads its clients to it', () => {
    const service = pods.find(({ name }) => name === 'score-ingest-service');
    expect(service?.container.livenessProbe?.httpGet).to.deep.equal({ path: '/livez', port: 'http' });
    expect(service?.container.readinessProbe?.httpGet).to.deep.equal({ path: '/readyz', port: 'http' });
    expect(service?.container.ports).to.deep.equal([{ name: 'http', containerPort: 8080 }]);
    const [address] = ofKind<Service>('Service');
    expect(address?.spec?.selector).to.deep.equal(service?.labels);
    expect(address?.spec?.ports?.[0]?.targetPort).to.equal('http');
  });
});

/** The secret that is mounted at this folder. */
function secretOf(pod: PodSpec, container: Container, folder: string): string | undefined {
  const mount = container.volumeMounts?.find(({ mountPath }) => mountPath === folder);
  return pod.volumes?.find(({ name }) => name === mount?.name)?.secret?.secretName;
}
