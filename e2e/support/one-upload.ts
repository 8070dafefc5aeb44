import { createHash } from 'node:crypto';
import { request } from 'node:http';

interface Answer {
  status: number;
  code: string | undefined;
  retryAfter: string | undefined;
  text: string;
}

/** One file of a run that the test sends itself, one PATCH after the other. */
export interface OneUpload {
  id: string;
  content: Buffer;
  sha256: string;
  /** Sends the bytes from `offset` on. Resolves to the answer, also when it arrives before all bytes are sent. */
  patch(offset: number, toOffset?: number): Promise<Answer>;
  /** The offset that HEAD answers. */
  offset(): Promise<number>;
}

export async function declareUpload(
  url: string,
  token: string,
  run: string,
  content: Buffer,
): Promise<OneUpload> {
  const sha256 = createHash('sha256').update(content).digest('hex');
  const lines = content.reduce((count, byte) => count + (byte === 10 ? 1 : 0), 0);
  const authorization = `Bearer ${token}`;
  const declared = await fetch(`${url}/v1/models/churn/runs/${run}`, {
    method: 'PUT',
    headers: { authorization, 'content-type': 'application/json' },
    body: JSON.stringify({ files: [{ name: 'a.jsonl', bytes: content.length, sha256, lines }] }),
  });
  const answer = (await declared.json()) as { missing?: { files: { uploadUrl: string }[] } };
  const uploadUrl = answer.missing?.files[0]?.uploadUrl;
  if (uploadUrl === undefined)
    throw new Error(`The service did not accept the run: ${JSON.stringify(answer)}`);
  const headers = { authorization, 'tus-resumable': '1.0.0' };
  return {
    id: uploadUrl.split('/').at(-1) ?? '',
    content,
    sha256,
    patch: (offset, toOffset = content.length) =>
      new Promise((resolve, reject) => {
        const req = request(`${url}${uploadUrl}`, {
          method: 'PATCH',
          headers: {
            ...headers,
            'upload-offset': offset,
            'content-type': 'application/offset+octet-stream',
            'content-length': toOffset - offset,
          },
        });
        req.on('error', reject);
        req.on('response', async (res) => {
          const text = Buffer.concat(await res.toArray()).toString();
          resolve({
            status: res.statusCode ?? 0,
            code: text === '' ? undefined : (JSON.parse(text) as { code: string }).code,
            retryAfter: res.headers['retry-after'],
            text,
          });
        });
        req.end(content.subarray(offset, toOffset));
      }),
    async offset() {
      const answer = await fetch(`${url}${uploadUrl}`, { method: 'HEAD', headers });
      if (answer.status !== 200) throw new Error(`HEAD answered ${answer.status}.`);
      return Number(answer.headers.get('upload-offset'));
    },
  };
}
