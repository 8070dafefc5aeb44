import { createPrivateKey, X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';

const CERTIFICATE = /-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----[^-]*-----END \1-----/g;
const BEGIN = /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----/g;

/**
 * What is wrong with the text of a file of certificates, as the end of a sentence; null if it has some and each can be read.
 * OpenSSL takes a file without any, and ignores all from the first on that it cannot read; connections then fail.
 */
export function certificatesFault(pem: string): string | null {
  const certificates = pem.match(CERTIFICATE) ?? [];
  const begun = pem.match(BEGIN)?.length ?? 0;
  if (begun === 0) return 'has no certificate (-----BEGIN CERTIFICATE-----)';
  if (begun > certificates.length)
    return `has ${begun} certificates, of which ${certificates.length} are whole`;
  for (const [index, certificate] of certificates.entries()) {
    try {
      new X509Certificate(certificate);
    } catch (error) {
      return `has a certificate that cannot be read, number ${index + 1} of ${certificates.length} (${(error as Error).message})`;
    }
  }
  return null;
}

/**
 * What is wrong with the texts of a certificate, with its chain behind it, and of its key, as the end of a sentence of the two;
 * null if nothing.
 */
export function keyPairFault(cert: string, key: string, passphrase?: string): string | null {
  try {
    const fault = certificatesFault(cert);
    if (fault !== null) throw new Error(`the first ${fault}`);
    const secret = passphrase === undefined ? {} : { passphrase };
    createSecureContext({ cert, key, ...secret });
    // OpenSSL compares only keys of the same algorithm.
    if (!new X509Certificate(cert).checkPrivateKey(createPrivateKey({ key, ...secret })))
      throw new Error('the key is that of another certificate');
    return null;
  } catch (error) {
    const how = passphrase === undefined ? ', without a passphrase' : ' with this passphrase';
    return `are not a certificate and its key${how} (${(error as Error).message})`;
  }
}
