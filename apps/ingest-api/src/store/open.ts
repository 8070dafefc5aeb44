import { fileURLToPath } from 'node:url';
import { folderStore } from './folder.ts';
import type { Store } from './store.ts';

export type StoreAddress =
  | { readonly kind: 'folder'; readonly path: string }
  /** `prefix` is empty, or ends with a slash. */
  | { readonly kind: 's3'; readonly bucket: string; readonly prefix: string };

export type BucketLocation = Extract<StoreAddress, { kind: 's3' }> & {
  /** Undefined for Amazon's own servers. */
  readonly endpoint: string | undefined;
  readonly region: string;
  /** The bucket is in the path of each request, not in its host name. */
  readonly forcePathStyle: boolean;
  /** PEM certificates of more authorities. */
  readonly ca: string | undefined;
};

/** Names of buckets, as S3 has them; no other name becomes part of a host name or a path. */
const S3_ADDRESS = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/([A-Za-z0-9!_.*'()/-]*))?$/;

/** `/path`, `file:///path` or `s3://bucket/prefix`; undefined for any other text. */
export function parseStoreAddress(text: string): StoreAddress | undefined {
  const [, bucket, prefix = ''] = S3_ADDRESS.exec(text) ?? [];
  if (bucket !== undefined) {
    const path = prefix.split('/').filter((part) => part !== '');
    return { kind: 's3', bucket, prefix: path.map((part) => `${part}/`).join('') };
  }
  const path = text.startsWith('file:///') ? pathOf(text) : text;
  return path === '' || path.includes('://') ? undefined : { kind: 'folder', path };
}

/** Empty when the URL is not that of a path: `%2F` is no separator. */
function pathOf(fileUrl: string): string {
  try {
    return fileURLToPath(fileUrl);
  } catch {
    return '';
  }
}

/** The SDK is imported only for a bucket: it takes a second, and memory. */
export async function openStore(
  location: Extract<StoreAddress, { kind: 'folder' }> | BucketLocation,
): Promise<Store> {
  if (location.kind === 'folder') return folderStore(location.path);
  const { s3Store } = await import('./s3.ts');
  return s3Store(location);
}
