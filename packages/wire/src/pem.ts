import { X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';

const CERTIFICATE = /-----BEGIN (X509 )?CERTIFICATE-----[^-]*-----END (X509 )?CERTIFICATE-----/g;

/**
 * What is wrong with the text of a file of certificates, as the end of a sentence; null if it has some and each can be read.
 * OpenSSL takes a file without any, and those before the first that it cannot read; connections then fail.
 */
export function certificatesFault(pem: string): string | null {
  const certificates = pem.match(CERTIFICATE) ?? [];
  if (certificates.length === 0) return 'has no certificate (-----BEGIN CERTIFICATE-----)';
  for (const [index, certificate] of certificates.entries()) {
    try {
      new X509Certificate(certificate);
    } catch (error) {
      return `has a certificate that cannot be read, number ${index + 1} of ${certificates.length} (${(error as Error).message})`;
    }
  }
  return null;
}

/** What is wrong with the texts of a certificate, with its chain, and its key, as the end of a sentence of the two; null if nothing. */
export function keyPairFault(cert: string, key: string, passphrase?: string): string | null {
  try {
    if (cert.trim() === '' || key.trim() === '') throw new Error('a file is empty'); // OpenSSL is not asked then
    createSecureContext({ cert, key, ...(passphrase !== undefined && { passphrase }) });
    return null;
  } catch (error) {
    const how = passphrase === undefined ? ', without a passphrase' : ' with this passphrase';
    return `are not a certificate and its key${how} (${(error as Error).message})`;
  }
}
