import { globalAgent } from 'node:https';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';

/** PEM texts. */
export type TlsIdentity = { ca: string | null; clientCert: string | null; clientKey: string | null };

/**
 * For every connection of this process: an authority to trust besides the usual ones, and the certificate to
 * show to a service that asks for one.
 */
export function useTlsIdentity({ ca, clientCert, clientKey }: TlsIdentity): void {
  if (ca !== null) setDefaultCACertificates([...getCACertificates('default'), ca]);
  if (clientCert !== null && clientKey !== null)
    Object.assign(globalAgent.options, { cert: clientCert, key: clientKey });
}
